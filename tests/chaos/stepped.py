"""A gateway on a stand-in's clock that works on its jobs only when it is told to.

So a run has no pauses, however long its leases are, and takes the same course every time.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy.exc import OperationalError
from werkzeug.serving import WSGIRequestHandler, make_server

from common import log
from gateway import create_app
from gateway.__main__ import prepare
from gateway.configuration import read_settings
from gateway.dispatch.loop import Dispatcher
from gateway.providers import http, worker_client
from gateway.providers.clouds.vast import client
from gateway.wiring import Services
from tests.chaos import steps

# Time stands still while a gateway works, so no call may wait for its turn or for long for a response.
AT_ONCE = {
    (client, "SPACING_S"): dict.fromkeys(client.SPACING_S, 0.0),
    (client, "SEARCHES_A_MINUTE"): 10_000,
    (client, "PAUSE_S"): 0.0,
    (client, "SEARCH_PAUSE_S"): 0.0,
    (http, "CONNECT_TIMEOUT_S"): 0.2,
    (worker_client, "CONNECT_TIMEOUT_S"): 0.2,
}
# A job that one provider refuses is due again at once, for the next one.
ROUNDS = 4
PATIENCE_S = 30.0


class SharedClock:
    """Milliseconds in a file of eight bytes that gateways in other processes read."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def now_ms(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    def set(self, ms: int) -> None:
        self._memory[:8] = ms.to_bytes(8, "little")


class _Quiet(WSGIRequestHandler):
    def log_request(self, *args: object) -> None: ...


def serve(environ: Mapping[str, str]) -> None:
    """Run a gateway in this process that does one round for every byte from the socket ORDERS, and returns a byte."""
    for (module, name), value in AT_ONCE.items():
        assert hasattr(module, name), name
        setattr(module, name, value)
    if "CHAOS" in environ:
        steps.install("gateway", Path(environ["CHAOS"]))
    settings = read_settings(environ)
    log.configure("INFO")
    prepare(settings)
    app = create_app(settings)
    services = app.extensions["reelay"] = Services.wire(settings, clock=SharedClock(Path(environ["CLOCK"])))
    server = make_server("127.0.0.1", settings.port, app, threaded=True, request_handler=_Quiet)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as orders:
        orders.connect(environ["ORDERS"])
        orders.sendall(b".")
        while orders.recv(1):
            try:
                _round(services.dispatcher)
                orders.sendall(b".")
            except OperationalError:  # as the dispatcher's loop does
                orders.sendall(b"!")
    os._exit(0)


def _round(dispatcher: Dispatcher) -> None:
    for _ in range(ROUNDS):
        begun = dispatcher.tick()
        dispatcher.settle()
        if not begun:
            return


class Gateway:
    """Gives the orders to a gateway, which is up again when `tick` returns even if it was killed meanwhile."""

    def __init__(self, orders: Path) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(orders))
        self._server.listen()
        self._server.settimeout(PATIENCE_S)
        self._connection: socket.socket | None = None
        self.up = False

    def wait(self) -> None:
        """Wait until it has started, for the first time or again."""
        while not self.up:
            if self._connection is not None:
                self._connection.close()
            self._connection, _ = self._server.accept()
            self._connection.settimeout(PATIENCE_S)
            self._answer()

    def tick(self, book: steps.Book | None = None) -> bool:
        """Do a round. False when the database is locked, or it was killed, or is stopped according to `book`."""
        assert self._connection is not None
        with contextlib.suppress(ConnectionError):
            self._connection.sendall(b".")
        ends_at = time.monotonic() + PATIENCE_S
        while book is not None and not select.select([self._connection], [], [], 0.1)[0]:
            if book.read().died:
                return False
            assert time.monotonic() < ends_at, "the gateway does not come back"
        return self._answer()

    def wake(self, book: steps.Book) -> None:
        """Let it continue in the middle of its round, to the end."""
        os.kill(book.read().died[-1][0], signal.SIGCONT)
        self._answer()
        assert self.up, "the gateway that was woken has ended"

    def _answer(self) -> bool:
        assert self._connection is not None
        try:
            told = self._connection.recv(1)
        except ConnectionError:
            told = b""
        self.up = bool(told)
        return told == b"."

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.close()

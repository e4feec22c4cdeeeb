"""A gateway on a stand-in's clock that works on its jobs only on demand.

So a run has no pauses, however long its leases are, and does the same every time.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import socket
import time
from pathlib import Path

from sqlalchemy.exc import OperationalError

from gateway.dispatch.loop import Dispatcher
from gateway.providers import http, worker_client
from gateway.providers.clouds.vast import client
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


def obey(dispatcher: Dispatcher, orders_path: str) -> None:
    """Do one round for every byte from the socket, and return a byte; end this process when the socket is closed."""
    with socket.socket(socket.AF_UNIX) as orders:
        orders.connect(orders_path)
        orders.sendall(b".")
        while orders.recv(1):
            try:
                _round(dispatcher)
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
    """Orders rounds from a gateway, which may be killed in one of them and restarted."""

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
            answer = self._connection.recv(1)
        except ConnectionError:
            answer = b""
        self.up = bool(answer)
        return answer == b"."

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._server.close()

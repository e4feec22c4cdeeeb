"""A threaded WSGI server with keep-alive connections."""

from __future__ import annotations

import functools
import select
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from werkzeug.test import EnvironBuilder, run_wsgi_app

from tests.emulators.runpod.calls import HANG_UP

# In the WSGI environment: a callable that returns whether the caller is still connected.
CONNECTED = "emulator.connected"
IDLE_S = 75.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    server: Server

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the caller was killed while it sent
            self.close_connection = True
            return
        self._hung_up = False
        environ = self._environ(body)
        chunks, status, headers = run_wsgi_app(self.server.app, environ, buffered=True)
        if self._hung_up:
            self.close_connection = True
            return
        self.send_response(int(status[:3]))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"".join(chunks))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _environ(self, body: bytes) -> dict[str, Any]:
        headers = list(self.headers.items())
        environ = EnvironBuilder(self.path, method=self.command, headers=headers, data=body).get_environ()
        hang_up = functools.partial(setattr, self, "_hung_up", True)
        return environ | {"REMOTE_ADDR": self.client_address[0], CONNECTED: self._connected, HANG_UP: hang_up}

    def _connected(self) -> bool:
        """Called while a request is served: anything readable now means that the caller has hung up."""
        watch = select.poll()
        watch.register(self.connection, select.POLLIN)
        try:
            return not watch.poll(0) or bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the caller has hung up
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


class Server(ThreadingHTTPServer):
    """Listens from the constructor on, serves `app` between `start` and `stop`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], app: Callable[..., Any]) -> None:
        super().__init__(address, _Handler)
        self.app = app
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        for connection in list(self._open):
            self.shutdown_request(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

"""Real HTTP servers on loopback: a file server that misbehaves as a test asks."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler

import requests

PATIENCE_S = 60.0  # reached only by what is broken, however busy the machine is
STOP_S = 9.0  # for what must end at once: less than a timeout or its own end would take


@dataclass
class Request:
    """One request that the server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """A response: `pause_s` passes before its headers, `trickle_s` between single bytes of its body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    trickle_s: float = 0.0
    content_length: int | None = None
    drop: bool = False


Route = Reply | Callable[[Request], Reply]


class Loopback:
    """An HTTP server on `port`, or on a free one, until it is closed."""

    scheme = "http"

    def __init__(self, handler: type[BaseRequestHandler], port: int = 0) -> None:
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.origin}{path}"

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class FileServer(Loopback):
    """`routes` maps paths (without query) to replies, `default` is that of all others; `requests` records the requests."""

    def __init__(self, port: int = 0) -> None:
        self.routes: dict[str, Route] = {}
        self.default: Route = Reply(404, b"not here")
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
                if len(request.body) < length:  # the client was killed while it sent
                    self.close_connection = True
                    return
                server.requests.append(request)
                route = server.routes.get(self.path.partition("?")[0], server.default)
                reply = route(request) if callable(route) else route
                try:
                    self._send(reply)
                except OSError:
                    self.close_connection = True

            def _send(self, reply: Reply) -> None:
                server.closing.wait(reply.pause_s)
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                size = len(reply.body) if reply.content_length is None else reply.content_length
                for name, value in {"Content-Length": str(size), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if not reply.trickle_s:
                    self.wfile.write(reply.body)
                else:
                    for i in range(len(reply.body)):
                        self.wfile.write(reply.body[i : i + 1])
                        if server.closing.wait(reply.trickle_s):
                            return
                if size != len(reply.body):
                    self.close_connection = True

            do_GET = do_POST = do_PUT = do_DELETE = _answer

            def handle(self) -> None:
                with suppress(ConnectionError):  # the client was killed
                    super().handle()

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(Handler, port)


class RawServer(Loopback):
    """Sends each connection the next of `responses`, the last one repeatedly, byte for byte, and closes it.

    With `pause_s` the headers come at once and the body, or headers without an end, in single bytes. `hold` keeps the
    connection open after the last byte. `left` is set when the client hangs up first.
    """

    def __init__(
        self, *responses: bytes, pause_s: float = 0.0, hold: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        self.left = threading.Event()
        self.scheme = "https" if tls else "http"
        waiting, server = list(responses), self

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                response = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                try:
                    with tls.wrap_socket(self.request, server_side=True) if tls else self.request as peer:
                        peer.recv(65536)
                        server._send(peer, response, pause_s)
                        if hold:
                            server._wait(peer, PATIENCE_S)
                except OSError:
                    server.left.set()

        super().__init__(Handler)

    def _send(self, peer: socket.socket, response: bytes, pause_s: float) -> None:
        head, end, body = response.partition(b"\r\n\r\n")
        at_once, trickled = (head + end, body) if end else (b"", head)
        peer.sendall(at_once if pause_s else response)
        for i in range(max(1, len(trickled)) if pause_s else 0):
            peer.sendall(trickled[i : i + 1])
            self._wait(peer, pause_s)

    def _wait(self, peer: socket.socket, seconds: float) -> None:
        """Raises ConnectionError once the client has hung up or the server is closed."""
        ends_at = time.monotonic() + seconds
        while (left_s := ends_at - time.monotonic()) > 0:
            if self.closing.is_set() or (select.select([peer], [], [], min(0.05, left_s))[0] and not peer.recv(65536)):
                raise ConnectionError


@contextmanager
def file_server() -> Iterator[FileServer]:
    with closing(FileServer()) as server:
        yield server


def responds(url: str) -> bool:
    """Whether a server responds, whatever the status."""
    try:
        requests.get(url, timeout=2)
    except requests.RequestException:
        return False
    return True


def eventually(check: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait until `check` returns something true; fail after `seconds`."""
    ends_at = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < ends_at, f"did not happen within {seconds} s"
        time.sleep(0.02)

"""Real HTTP servers on loopback: a file server that misbehaves as a test asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class FileServer(Loopback):
    """`routes` maps paths (without query) to replies, `otherwise` is for all others; `requests` records the requests."""

    def __init__(self, port: int = 0) -> None:
        self.routes: dict[str, Route] = {}
        self.otherwise: Route = Reply(404, b"not here")
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                request = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
                server.requests.append(request)
                route = server.routes.get(self.path.partition("?")[0], server.otherwise)
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

        self.closing = threading.Event()
        super().__init__(Handler, port)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.origin}{path}"

    def close(self) -> None:
        self.closing.set()
        super().close()


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

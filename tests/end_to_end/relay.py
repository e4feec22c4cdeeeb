"""A relay between the gateway and its local worker, which sends jobs to the workers that a test chooses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler

import requests

from tests.servers import Loopback

TIMEOUT_S = 10


class Relay(Loopback):
    """Sends jobs to the workers at all ports in `targets`, other calls to the first; returns the first one's response."""

    def __init__(self) -> None:
        self.targets: list[int] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ports = relay.targets if self.command == "POST" else relay.targets[:1]
                try:
                    answers = [self._ask(port, body) for port in ports]
                except requests.RequestException:
                    self.close_connection = True
                    return
                self.send_response(answers[0].status_code)
                for name in ("Content-Type", "Retry-After"):
                    if value := answers[0].headers.get(name):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answers[0].content)))
                self.end_headers()
                self.wfile.write(answers[0].content)

            def _ask(self, port: int, body: bytes) -> requests.Response:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                url = f"http://127.0.0.1:{port}{self.path}"
                return requests.request(self.command, url, data=body, headers=headers, timeout=TIMEOUT_S)

            do_GET = do_POST = do_DELETE = _pass_on

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(Handler)


@contextmanager
def relay() -> Iterator[Relay]:
    with closing(Relay()) as made:
        yield made

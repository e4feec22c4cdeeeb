"""A lightweight HTTP client: `python -m bench.gateway.client` reads a Load from standard input and prints a Report.

One thread handles all connections, with one request under way on each, so that the client takes little CPU time from
the server on the same machine.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import cycle

STALLED_S = 60


@dataclass(frozen=True)
class Load:
    """`requests`, repeated in turn until `count` requests were sent or `seconds` have passed."""

    port: int
    requests: tuple[str, ...]
    connections: int
    seconds: float | None = None
    count: int | None = None


@dataclass
class Report:
    """The responses received in `seconds`: the latency of each, and their Location headers."""

    seconds: float = 0.0
    took_ms: list[float] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return len(self.took_ms) / self.seconds

    @property
    def p99_ms(self) -> float:
        return sorted(self.took_ms)[int(len(self.took_ms) * 0.99)]


def request(method: str, path: str, headers: Mapping[str, str], body: str = "") -> str:
    """Return one HTTP/1.1 request as text."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", body])


def drive(load: Load) -> Report:
    """Run `load` in a process of its own. Raises RuntimeError for a response that is not 2xx."""
    client = subprocess.run(
        [sys.executable, "-m", "bench.gateway.client"], input=json.dumps(asdict(load)), capture_output=True, text=True
    )
    if client.returncode != 0:
        raise RuntimeError(client.stderr[-2000:])
    return Report(**json.loads(client.stdout))


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=STALLED_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent_at = 0.0
        self._received = b""

    def send(self, raw: bytes) -> None:
        self._received, self._sent_at = b"", time.perf_counter()
        self.socket.sendall(raw)

    def received(self, report: Report) -> bool:
        """Read what has arrived; return whether the response is complete."""
        piece = self.socket.recv(65536)
        if not piece:
            raise RuntimeError("the server has hung up")
        self._received += piece
        head, _, body = self._received.partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if b"content-length" not in headers or len(body) < int(headers[b"content-length"]):
            return False
        report.took_ms.append((time.perf_counter() - self._sent_at) * 1000)
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(self._received.decode(errors="replace"))
        if b"location" in headers:
            place = head.lower().index(b"\r\nlocation: ") + len(b"\r\nlocation: ")
            report.locations.append(head[place:].partition(b"\r\n")[0].decode())
        return True


def _run(load: Load) -> Report:
    report, began = Report(), time.perf_counter()
    ends_at = began + (load.seconds or float("inf"))
    connections = {c.socket.fileno(): c for c in (_Connection(load.port) for _ in range(load.connections))}
    waiting = select.epoll()
    left = _requests(load)
    open_ = 0
    for number, connection in connections.items():
        waiting.register(number, select.EPOLLIN)
        connection.send(next(left))
        open_ += 1
    while open_:
        ready = waiting.poll(STALLED_S)
        if not ready:
            raise RuntimeError("the server does not respond")
        for number, _ in ready:
            if connections[number].received(report):
                raw = next(left, None) if time.perf_counter() < ends_at else None
                if raw is None:
                    open_ -= 1
                else:
                    connections[number].send(raw)
    report.seconds = time.perf_counter() - began
    return report


def _requests(load: Load) -> Iterator[bytes]:
    encoded = cycle([raw.encode() for raw in load.requests])
    sent = 0
    while load.count is None or sent < load.count:
        sent += 1
        yield next(encoded)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    json.dump(asdict(_run(Load(**given))), sys.stdout)

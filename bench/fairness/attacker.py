"""The attacker, at the lowest priority. Run as a program, it reads an Assault from the first line of standard input.

It prints `ready` when the attack is in force, goes on until its standard input ends, and prints an Outcome.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice

HOST, ADDRESS = "127.0.0.1", "127.0.0.2"  # its address is not the victim's
LOWEST = 19
TIMEOUT_S = 60.0
RECEIVE_BYTES = 4096
PAUSE_S = 0.2


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    path: str
    body: str = ""


@dataclass(frozen=True)
class Assault:
    """Requests on many connections."""

    port: int
    #: Sent as X-API-Key; empty: none.
    api_key: str
    connections: int
    #: Sent in turn. With `holds`, each connection sends one of them, byte for byte as `raw` returns it.
    calls: tuple[Call, ...]
    #: Whether connections are held open. Otherwise each sends one request after another.
    holds: bool = False
    #: What a held connection sends every second, and how many bytes it reads.
    sends: str = ""
    reads: int = 0
    #: Whether a held connection that has ended is replaced by a new one.
    again: bool = True
    #: The size that a held request states for its body; 0: the head has no end, either.
    states_bytes: int | None = None
    #: Whether each job that a request has made is cancelled at once.
    cancels: bool = False
    #: Maximum number of requests, if they are not held; None: no limit.
    count: int | None = None


@dataclass
class Outcome:
    """What became of it."""

    #: Median number of connections that were held.
    held: float = 0.0
    #: Responses by status, and requests without one.
    statuses: dict[str, int] = field(default_factory=dict)


class _Held:
    """One connection that is held open."""

    def __init__(self, assault: Assault, raw: bytes, statuses: Counter[str]) -> None:
        self._assault, self._raw, self._statuses = assault, raw, statuses
        self._socket: socket.socket | None = None
        self._began = self._answered = False

    @property
    def open(self) -> bool:
        return self._socket is not None

    def beat(self) -> None:
        """Send and read a little; begin again where the connection has ended."""
        try:
            if self._socket is None:
                self._begin()
            else:
                self._go_on(self._socket)
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(type(error).__name__)

    def _begin(self) -> None:
        if self._began and not self._assault.again:
            return
        self._began, self._answered = True, False
        self._socket = socket.socket()
        if self._assault.reads:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._socket.settimeout(2.0)
        self._socket.bind((ADDRESS, 0))
        self._socket.connect((HOST, self._assault.port))
        self._socket.sendall(self._raw)
        self._socket.setblocking(False)

    def _go_on(self, connection: socket.socket) -> None:
        if self._assault.sends:
            connection.send(self._assault.sends.encode())
        received = connection.recv(self._assault.reads or 65536)
        if not received:
            self._end("closed")
        elif not self._answered:
            self._answered = True
            status = received[9:12].decode(errors="replace")
            if not self._assault.reads or status[0] != "2":
                self._end(status)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _end(self, why: str) -> None:
        self._statuses[why] += 1
        self.close()


def hold(assault: Assault, over: threading.Event) -> Outcome:
    """Hold the connections until `over`."""
    statuses, counts = Counter[str](), list[int]()
    raws = cycle([raw(assault, call) for call in assault.calls])
    held = [_Held(assault, next(raws), statuses) for _ in range(assault.connections)]
    while not over.is_set():
        began = time.monotonic()
        for connection in held:
            connection.beat()
        if not counts:
            print("ready", flush=True)
        counts.append(sum(connection.open for connection in held))
        over.wait(max(PAUSE_S, 1.0 - (time.monotonic() - began)))
    for connection in held:
        connection.beat()
        connection.close()
    return Outcome(statistics.median(counts), dict(statuses))


def raw(assault: Assault, call: Call) -> bytes:
    """The request that a held connection sends."""
    key = [f"X-API-Key: {assault.api_key}"] if assault.api_key else []
    lines = [f"{call.method} {call.path} HTTP/1.1", "Host: x", *key]
    if assault.states_bytes == 0:
        return "\r\n".join([*lines, "X-Slow: "]).encode()
    size = [] if assault.states_bytes is None else [f"Content-Length: {assault.states_bytes}"]
    return "\r\n".join([*lines, *size, "", call.body]).encode()


def repeat(assault: Assault, over: threading.Event) -> Outcome:
    """Send requests until `over`."""
    statuses: Counter[str] = Counter()
    calls, lock = islice(cycle(assault.calls), assault.count), threading.Lock()
    threads = [
        threading.Thread(target=_repeat, args=(assault, over, calls, lock, statuses))
        for _ in range(assault.connections)
    ]
    for thread in threads:
        thread.start()
    if assault.count is not None:
        for thread in threads:
            thread.join()
    print("ready", flush=True)
    over.wait()
    for thread in threads:
        thread.join()
    return Outcome(0.0, dict(statuses))


def _repeat(
    assault: Assault, over: threading.Event, calls: Iterator[Call], lock: threading.Lock, statuses: Counter[str]
) -> None:
    address = (ADDRESS, 0)
    with closing(
        http.client.HTTPConnection(HOST, assault.port, timeout=TIMEOUT_S, source_address=address)
    ) as connection:
        while not over.is_set():
            with lock:
                call = next(calls, None)
            if call is None:
                return
            try:
                location = _send(assault, connection, call, statuses)
                if assault.cancels and location:
                    _send(assault, connection, Call("DELETE", location), statuses)
            except (OSError, http.client.HTTPException) as error:
                statuses[type(error).__name__] += 1
                connection.close()
                over.wait(PAUSE_S)


def _send(assault: Assault, connection: http.client.HTTPConnection, call: Call, statuses: Counter[str]) -> str | None:
    """Send the request and read its response; return its Location."""
    headers = {"X-API-Key": assault.api_key, "Content-Type": "application/json"}
    connection.request(call.method, call.path, call.body.encode() or None, headers)
    response = connection.getresponse()
    response.read()
    statuses[str(response.status)] += 1
    return response.headers["Location"]


def main() -> None:
    os.nice(LOWEST)
    given = json.loads(sys.stdin.readline())
    assault = Assault(**{**given, "calls": tuple(Call(**call) for call in given["calls"])})
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    outcome = (hold if assault.holds else repeat)(assault, over)
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()

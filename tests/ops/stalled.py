"""Keeps connections open that never get on: `python -m tests.ops.stalled PORT COUNT`.

The first line of standard input is a JSON list of what they begin with, in turn. From then on each sends a byte every few
seconds, reads nothing, and is opened anew when the server ends it. They come from many addresses of loopback, so that no
limit of one address ends the attack. Every further line is answered with [open now, opened in all]; at its end all are
closed.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import time

ADDRESSES = 50
DRIP_S = 3.0


def main(port: int, count: int) -> None:
    told = open(0, "rb", buffering=0)  # noqa: SIM115  # a buffer would hide from `select` what has come already
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    requests = [request.encode() for request in json.loads(told.readline())]
    connections: list[socket.socket | None] = [None] * count
    opened = turn(connections, requests, port)
    waiting = selectors.DefaultSelector()
    waiting.register(told, selectors.EVENT_READ)
    next_at = time.monotonic() + DRIP_S
    while True:
        if waiting.select(max(0.0, next_at - time.monotonic())):
            if not told.readline():
                return
            print(json.dumps([sum(c is not None for c in connections), opened]), flush=True)
        if time.monotonic() >= next_at:
            opened += turn(connections, requests, port)
            next_at = time.monotonic() + DRIP_S


def turn(connections: list[socket.socket | None], requests: list[bytes], port: int) -> int:
    """A byte on each that is still open, others anew; answers how many those are."""
    opened = 0
    for i, connection in enumerate(connections):
        if connection is not None and dripped(connection):
            continue
        connections[i] = begun(requests[i % len(requests)], f"127.0.1.{1 + i % ADDRESSES}", port)
        opened += connections[i] is not None
    return opened


def dripped(connection: socket.socket) -> bool:
    """False when the server has ended it."""
    try:
        connection.send(b"x")
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        return False
    return True


def begun(request: bytes, address: str, port: int) -> socket.socket | None:
    connection = socket.socket()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.bind((address, 0))
        connection.settimeout(5)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
    except OSError:
        connection.close()
        return None
    connection.setblocking(False)
    return connection


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

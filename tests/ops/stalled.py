"""Stalled connections: a process of their own keeps them open.

Each begins with the bytes of a request, in turn, then sends a byte every few seconds, reads nothing, and is reopened when
the server closes it. They come from many addresses of loopback, so that the limit for one address does not end the attack.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import time
from multiprocessing.connection import Connection

from tests.servers import PATIENCE_S

ADDRESSES = 50
DRIP_S = 3.0


class Stalled:
    """Keeps `count` stalled connections to `port` open inside `with`."""

    def __init__(self, port: int, count: int, requests: list[bytes]) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._control, self._theirs = spawn.Pipe()
        self._process = spawn.Process(target=_keep, args=(self._theirs, port, count, requests))

    def __enter__(self) -> Stalled:
        self._process.start()
        self._theirs.close()
        assert self.count()[0] > 0
        return self

    def count(self) -> tuple[int, int]:
        """The numbers of connections open now and opened in total."""
        self._control.send(None)
        alive, opened = self._control.recv()
        return alive, opened

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.join(PATIENCE_S)


def _keep(control: Connection, port: int, count: int, requests: list[bytes]) -> None:
    """Keep the connections open; return their numbers for every object from `control`, until it is closed."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    connections: list[socket.socket | None] = [None] * count
    opened = _turn(connections, requests, port)
    next_at = time.monotonic() + DRIP_S
    while True:
        if control.poll(max(0.0, next_at - time.monotonic())):
            try:
                control.recv()
            except EOFError:
                return
            control.send((sum(c is not None for c in connections), opened))
        if time.monotonic() >= next_at:
            opened += _turn(connections, requests, port)
            next_at = time.monotonic() + DRIP_S


def _turn(connections: list[socket.socket | None], requests: list[bytes], port: int) -> int:
    """Send a byte on each connection that is open, and reopen the others; return how many those are."""
    opened = 0
    for i, connection in enumerate(connections):
        if connection is not None and _dripped(connection):
            continue
        connections[i] = _begun(requests[i % len(requests)], f"127.0.1.{1 + i % ADDRESSES}", port)
        opened += connections[i] is not None
    return opened


def _dripped(connection: socket.socket) -> bool:
    """Send a byte; return False when the server has closed the connection."""
    try:
        connection.send(b"x")
    except BlockingIOError:
        pass
    except OSError:
        connection.close()
        return False
    return True


def _begun(request: bytes, address: str, port: int) -> socket.socket | None:
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

"""Reads the heads of requests on the thread that accepts connections, so that slow clients hold no other thread."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from gunicorn.http.errors import LimitRequestHeaders

from common.http_connection import Connection, PlainConnection

# Time for a whole head, maximum size of a head, and maximum number of heads that are incomplete at once.
HEAD_S, HEAD_BYTES, HEADS = 10.0, 32_768, 1000


class Worker(Protocol):
    """What is needed of gunicorn's worker."""

    #: Waits for sockets. Created after the worker.
    poller: selectors.BaseSelector

    def head_read(self, conn: Any, method: bytes, path: bytes) -> None:
        """Called with a connection whose next request has a complete head. The connection reads that head again."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """Send the response for an error in the request's head."""

    def drop(self, conn: Any) -> None:
        """Close the connection."""


@dataclass
class _Head:
    """The beginning of a request."""

    #: What has arrived.
    data: bytearray
    #: When the connection is closed if the head is still incomplete; monotonic seconds.
    ends_at: float = field(default_factory=lambda: time.monotonic() + HEAD_S)

    @property
    def complete(self) -> bool:
        while self.data.startswith(b"\r\n"):  # gunicorn skips one such line, and would wait for what comes after it
            del self.data[:2]
        return b"\r\n\r\n" in self.data

    @property
    def method_and_path(self) -> tuple[bytes, bytes]:
        method, _, target = bytes(self.data).partition(b"\r\n")[0].partition(b" ")
        return method, target.partition(b" ")[0].partition(b"?")[0]


class RequestHeads:
    """The connections whose next request has no complete head yet. Used by the accepting thread only."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._incomplete: dict[Any, _Head] = {}  # the oldest first

    def read(self, conn: Any) -> None:
        """Read the head of the next request on gunicorn's connection, and hand it to the worker when it is complete.

        The connection is dropped when that takes HEAD_S or more than HEAD_BYTES, when the client closes it, and when it
        is the oldest of more than HEADS.
        """
        if not isinstance(conn.sock, Connection):
            conn.sock = PlainConnection(fileno=conn.sock.detach())
        conn.init()
        conn.sock.setblocking(False)
        head = _Head(bytearray(conn.parser.unreader.take_buffered()))
        if settle := self._arrived(conn, head):
            settle()
            return
        self._incomplete[conn] = head
        self._worker.poller.register(conn.sock, selectors.EVENT_READ, partial(self._readable, conn))
        if len(self._incomplete) > HEADS:
            self.close_oldest()

    def close_late(self) -> None:
        """Drop the connections whose time is over."""
        now = time.monotonic()
        while self._incomplete and next(iter(self._incomplete.values())).ends_at <= now:
            self.close_oldest()

    def close_oldest(self) -> None:
        """Drop the connection that has waited longest, if there is one."""
        if self._incomplete:
            conn = next(iter(self._incomplete))
            self._forget(conn)
            self._worker.drop(conn)

    def _readable(self, conn: Any, _: object) -> None:
        if settle := self._arrived(conn, self._incomplete[conn]):
            self._forget(conn)
            settle()

    def _arrived(self, conn: Any, head: _Head) -> Callable[[], None] | None:
        """Take what has arrived. Returns what to do with the connection, or None while the head is incomplete."""
        if not head.complete:
            arrived = conn.sock.arrived(HEAD_BYTES)
            if arrived == b"":
                return partial(self._worker.drop, conn)
            head.data += arrived or b""
        if head.complete:
            conn.parser.unreader.unread(bytes(head.data))
            return partial(self._worker.head_read, conn, *head.method_and_path)
        return partial(self._refuse, conn) if len(head.data) > HEAD_BYTES else None

    def _refuse(self, conn: Any) -> None:
        self._worker.handle_error(None, conn.sock, conn.client, LimitRequestHeaders("too large"))
        self._worker.drop(conn)

    def _forget(self, conn: Any) -> None:
        del self._incomplete[conn]
        self._worker.poller.unregister(conn.sock)

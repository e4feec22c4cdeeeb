"""The server's side of a connection: limits for slow clients, and the places that requests lend each other.

The classes override methods of `socket.socket` that gunicorn calls, and read its attribute `gunicorn.socket`.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import Response, request

IDLE_S = 60.0
# A request may wait PATIENCE_S for its client. Every MIN_RATE bytes that are transferred give back a second of it: the
# client may pause, but not be slower on average.
PATIENCE_S, MIN_RATE = 15.0, 16_000
HANDSHAKE_S = 10.0


class Connection(socket.socket):
    """Breaks when the client stalls for IDLE_S, or is slower than MIN_RATE. gunicorn has no such limits."""

    request: Any = None  # gunicorn's request in progress
    read_to_end = False
    place: threading.BoundedSemaphore | None = None
    _waited_s = 0.0  # of PATIENCE_S

    def begin(self, request: Any) -> None:
        """Begin a request. Its response may be held back until `flush`."""
        self.request, self._waited_s = request, 0.0

    def flush(self) -> None:
        """Send what is held back."""

    def setblocking(self, flag: bool, /) -> None:
        self.settimeout(IDLE_S if flag else 0.0)

    @contextmanager
    def _waiting(self, size: int) -> Iterator[float]:
        """Count the time of a call that is to transfer `size` bytes. Yields how long it may take; 0: it must not wait.

        A TimeoutError inside is turned into one that gunicorn does not log as a fault of the server.
        """
        left = PATIENCE_S + size / MIN_RATE - self._waited_s
        limit = self.gettimeout()
        began = time.monotonic()
        try:
            with _timeout_as_reset():
                yield max(0.001, min(limit, left)) if limit else 0.0
        finally:
            self._waited_s += time.monotonic() - began

    def _give_back(self, transferred: int) -> None:
        self._waited_s = max(0.0, self._waited_s - transferred / MIN_RATE)


class PlainConnection(Connection):
    """Without TLS. While it waits for its client, another request has its place.

    It saves system calls, each of which gives Python's lock to another thread: the socket itself never waits, so that
    changing the time limit takes none, and the head of a response is sent together with the beginning of its body.
    """

    _limit: float | None = None
    _head: bytes | None = None  # of the response in progress; None: none is held back any more

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        socket.socket.settimeout(self, 0.0)

    def begin(self, request: Any) -> None:
        super().begin(request)
        self._head = b""

    def flush(self) -> None:
        head, self._head = self._head, None
        if head:
            self.sendall(head)

    def settimeout(self, value: float | None, /) -> None:
        self._limit = value

    def gettimeout(self) -> float | None:
        return self._limit

    def arrived(self, size: int) -> bytes | None:
        """Return at most `size` bytes that have arrived; None if none have."""
        try:
            return super().recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def recv(self, *args: Any) -> bytes:
        data: bytes = self._when_ready(select.POLLIN, 0, super().recv, *args)
        self._give_back(len(data))
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        if self._head == b"":
            self._head = bytes(data)
            return
        head, self._head = self._head, None
        rest = memoryview(head + data if head else data)
        while rest:
            sent: int = self._when_ready(select.POLLOUT, len(rest), super().send, rest, *args)
            self._give_back(sent)
            rest = rest[sent:]

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        self.flush()
        return super().sendfile(*args, **kwargs)

    def _when_ready(self, event: int, size: int, call: Callable[..., Any], *args: Any) -> Any:
        """Return what `call` returns once the client is ready for it, which is to transfer `size` bytes."""
        while True:
            try:
                return call(*args)
            except BlockingIOError:
                if not self._limit:
                    raise
            with _lent(self.place), self._waiting(size) as seconds:
                poll = select.poll()
                poll.register(self, event)
                if not poll.poll(seconds * 1000):
                    raise TimeoutError


class SecureConnection(Connection, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_S)  # for the whole handshake
        with _timeout_as_reset():
            super().do_handshake(block)
        self.setblocking(True)

    def recv(self, *args: Any) -> bytes:
        with self._limited(0):
            data = super().recv(*args)
        self._give_back(len(data))
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        with self._limited(len(data)):
            super().sendall(data, *args)
        self._give_back(len(data))

    @contextmanager
    def _limited(self, size: int) -> Iterator[None]:
        limit = self.gettimeout()
        with self._waiting(size) as seconds:
            self.settimeout(seconds)
            try:
                yield
            finally:
                self.settimeout(limit)


@contextmanager
def _lent(place: threading.BoundedSemaphore | None) -> Iterator[None]:
    """Let another request have the place inside the block."""
    if place is None:
        yield
        return
    place.release()
    try:
        yield
    finally:
        place.acquire()


@contextmanager
def away(other: threading.BoundedSemaphore | None = None) -> Iterator[None]:
    """Let another request have the place of the one in progress inside the block, which has one of `other` instead."""
    connection: Any = request.environ.get("gunicorn.socket")
    place = getattr(connection, "place", None)
    if place is None or other is None:
        with _lent(place):
            yield
        return
    with _lent(place), other:
        connection.place = other
        try:
            yield
        finally:
            connection.place = place


@contextmanager
def _timeout_as_reset() -> Iterator[None]:
    """Turn a time-out into an error that gunicorn does not log as a fault of the server."""
    try:
        yield
    except TimeoutError as error:
        raise ConnectionResetError(errno.ECONNRESET, "The client has stalled.") from error


def shut_down(connection: socket.socket, how: int) -> None:
    # SSLSocket.shutdown would end the encryption first and send what follows in the clear.
    socket.socket.shutdown(connection, how)


def close_if_body_unread(response: Response) -> Response:
    """Close the connection after a response that leaves part of the request's body unread. For `app.after_request`.

    The remainder could otherwise be taken for the next request, which a proxy may attribute to another client.
    """
    has_body = request.content_length or "Transfer-Encoding" in request.headers
    if has_body and (response.status_code >= 400 or request.method not in {"POST", "PUT"}):
        response.headers["Connection"] = "close"
        # gunicorn ignores that header and would block a thread until the remainder of the body arrives.
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            connection.request.force_close()
            connection.read_to_end = True
            with suppress(OSError):
                shut_down(connection, socket.SHUT_RD)
    return response

"""The server's side of a connection: limits for slow clients, and the places that requests lend each other.

`Connection` overrides methods of `socket.socket` that gunicorn calls, and reads its attribute `gunicorn.socket`.
"""

from __future__ import annotations

import errno
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
    """Breaks when the client stalls for IDLE_S, or is slower than MIN_RATE. gunicorn has no such limits.

    While it waits for its client, another request has its place.
    """

    request: Any = None  # gunicorn's request in progress
    read_to_end = False
    place: threading.BoundedSemaphore | None = None
    _waited_s = 0.0  # of PATIENCE_S

    def begin(self, request: Any) -> None:
        self.request, self._waited_s = request, 0.0

    def setblocking(self, flag: bool, /) -> None:
        self.settimeout(IDLE_S if flag else 0.0)

    def arrived(self, size: int) -> bytes | None:
        """Return at most `size` bytes that have arrived on a socket that does not block; None if none have."""
        try:
            return super().recv(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def recv(self, *args: Any) -> bytes:
        data = self._at_once(super().recv, *args)
        if data is None:
            with self._paced(0):
                data = super().recv(*args)
        self._give_back(len(data))
        return data  # type: ignore[no-any-return]

    def sendall(self, data: Any, *args: Any) -> None:
        sent = self._at_once(super().send, data, *args) or 0
        if sent < len(data):
            with self._paced(len(data) - sent):
                super().sendall(memoryview(data)[sent:], *args)
        self._give_back(len(data))

    def _at_once(self, call: Callable[..., Any], *args: Any) -> Any:
        """Return what `call` returns, or None where it would have to wait."""
        limit = self.gettimeout()
        if self.place is None or not limit:
            return None
        self.settimeout(0.0)
        try:
            return call(*args)
        except BlockingIOError:
            return None
        finally:
            self.settimeout(limit)

    @contextmanager
    def _paced(self, size: int) -> Iterator[None]:
        """Limit the time of a call that is to transfer `size` bytes, and count it."""
        limit = self.gettimeout() or 0.0
        left = PATIENCE_S + size / MIN_RATE - self._waited_s
        if limit:  # otherwise the call does not wait
            self.settimeout(max(0.001, min(limit, left)))
        with _lent(self.place):
            began = time.monotonic()
            try:
                with _timeout_as_reset():
                    yield
            finally:
                self._waited_s += time.monotonic() - began
                self.settimeout(limit)

    def _give_back(self, transferred: int) -> None:
        self._waited_s = max(0.0, self._waited_s - transferred / MIN_RATE)


class SecureConnection(Connection, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_S)  # for the whole handshake
        with _timeout_as_reset():
            super().do_handshake(block)
        self.setblocking(True)


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

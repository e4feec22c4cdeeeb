"""Runs gunicorn for the gateway and the worker: one process with threads, logging like the rest of the program.

`_Worker` and `_Connection` override methods of gunicorn that its documentation does not cover.
`tests/common/test_http_server.py` lists each of them with the promise that depends on it.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import structlog
from flask import Flask, Response, request
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import _DEFER, ThreadWorker

log = structlog.get_logger(__name__)

IDLE_S = 60.0
# A request may wait PATIENCE_S for its client. Every MIN_RATE bytes that are transferred give back a second of it: the
# client may pause, but not be slower on average.
PATIENCE_S, MIN_RATE = 15.0, 16_000
# Maximum number of threads of a server for plain HTTP whose requests wait: for their client, or for something else.
AWAY = 400
FIRST_BYTE_S = 1.0
HANDSHAKE_S = 10.0
UNREAD_BODY_S = 5.0
CHUNK_BYTES, DRAIN_CHUNKS = 65536, 16
# Number of threads for unexpected addresses, and maximum number of their open connections.
UNEXPECTED = 16


class _Logger(glogging.Logger):  # type: ignore[misc]
    """Passes gunicorn's log lines to the root logger, without the parts of requests that may be secret."""

    def setup(self, cfg: Any) -> None:
        self._rejecting = threading.local()
        for logger in (self.error_log, self.access_log):
            logger.handlers[:] = []
            logger.propagate = True
            logger.setLevel(logging.INFO)

    @contextmanager
    def rejecting(self, address: str, error: Exception) -> Iterator[None]:
        """Replace this thread's warnings with one that omits gunicorn's text, because that quotes the request."""
        self._rejecting.reason = {"address": address, "reason": type(error).__name__}
        try:
            yield
        finally:
            del self._rejecting.reason

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if reason := getattr(self._rejecting, "reason", None):
            log.warning("request.rejected", **reason)
        else:
            super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        super().exception(msg, *(str(arg).partition("?")[0] for arg in args), **kwargs)


class _Connection(socket.socket):
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


class _SecureConnection(_Connection, ssl.SSLSocket):
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


def _shutdown(connection: socket.socket, how: int) -> None:
    # SSLSocket.shutdown would end the encryption first and send what follows in the clear.
    socket.socket.shutdown(connection, how)


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, except that clients that stall or keep a closed connection open delay no other client.

    Without TLS, `threads` is the number of requests that are worked on at once. Those that wait have threads besides.
    Requests from addresses that are not `expected` run on UNEXPECTED threads of their own. While all of these are busy,
    further such connections are closed unread.
    """

    def init_process(self) -> None:
        self._unexpected = ThreadPoolExecutor(UNEXPECTED, thread_name_prefix="unexpected")
        self._places = threading.BoundedSemaphore(UNEXPECTED)
        self._at_work = None if self.cfg.is_ssl else threading.BoundedSemaphore(self.cfg.threads)
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.cfg.threads + (0 if self._at_work is None else AWAY))

    def handle_exit(self, sig: int, frame: object) -> None:
        super().handle_exit(sig, frame)
        self.method_queue.defer(self.app.stopping, self.wsgi)  # not in the signal handler: it may take locks

    def is_parent_alive(self) -> bool:
        if super().is_parent_alive():
            return True
        # The master was killed. Its successor needs the address now; gunicorn holds it until the last connection ends.
        self.handle_exit(signal.SIGTERM, None)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        return False

    def enqueue_req(self, conn: Any) -> None:
        if self.app.expected(str(conn.client[0]) if conn.client else ""):
            super().enqueue_req(conn)
        elif self._places.acquire(blocking=False):
            self._unexpected.submit(self.handle, conn).add_done_callback(partial(self._unexpected_done, conn))
        else:
            self.nr_conns -= 1
            conn.close()

    def _unexpected_done(self, conn: Any, handled: Future[Any]) -> None:
        self._places.release()
        self.method_queue.defer(self.finish_request, conn, handled)

    def handle(self, conn: Any) -> Any:
        if not isinstance(conn.sock, _Connection):
            conn.sock = _Connection(fileno=conn.sock.detach())
        if self._at_work is None:
            return self._handled(conn)
        if not conn.initialized and not conn.wait_for_data(FIRST_BYTE_S):
            return _DEFER
        conn.sock.place = self._at_work
        with self._at_work:
            return self._handled(conn)

    def _handled(self, conn: Any) -> Any:
        keep = super().handle(conn)
        if keep is False:
            # Otherwise gunicorn waits up to two seconds for the client to hang up, on the thread that accepts.
            with suppress(OSError):
                _shutdown(conn.sock, socket.SHUT_RDWR)
        return keep

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.sock.begin(req)
        keep = super().handle_request(req, conn)
        if conn.sock.read_to_end:
            with suppress(OSError):  # closing with unread data would reset the connection and lose the response
                for _ in range(DRAIN_CHUNKS):
                    if not conn.sock.recv(CHUNK_BYTES):
                        break
        if not keep:
            return False
        try:
            return conn.parser.finish_body(deadline=time.monotonic() + UNREAD_BODY_S)
        except ParseException:  # the unread part of the body is malformed: gunicorn would send a second response
            return False

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        with self.log.rejecting(str(addr[0]) if addr else "", exc):
            super().handle_error(req, client, addr, exc)


class Server(BaseApplication):  # type: ignore[misc]
    """Serves the app that `make_app` returns in the serving process. `options` are gunicorn's settings.

    `tls`: serve HTTPS only, with this context's certificate. `on_stop`: called in the serving process when it is asked
    to stop, before it waits for requests in progress. `expected(address)`: whether an address may use all threads.
    """

    def __init__(
        self,
        make_app: Callable[[], Flask],
        *,
        tls: ssl.SSLContext | None = None,
        on_stop: Callable[[Flask], object] = lambda app: None,
        expected: Callable[[str], bool] = lambda address: True,
        **options: Any,
    ) -> None:
        self._make_app, self._on_stop, self.expected = make_app, on_stop, expected
        if tls is not None:
            tls.sslsocket_class = _SecureConnection
            # gunicorn requires a file and would read it at every connection.
            options |= {"certfile": os.devnull, "ssl_context": lambda config, default: tls}
        self._options = {
            "workers": 1,
            "worker_class": _Worker,
            "logger_class": _Logger,
            "control_socket_disable": True,  # its path is the same for all servers of a user
            # Otherwise any local process, including a proxy's clients, could set scheme and path by header.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "worker_connections": 2000,  # open at once; more wait in the backlog
            "backlog": 1024,
            **options,
        }
        super().__init__()

    def load_config(self) -> None:
        for key, value in self._options.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        return self._make_app()

    def stopping(self, app: Flask | None) -> None:
        """Call `on_stop`; `app` is None when the process is asked to stop before it has loaded the app."""
        if app is not None:
            self._on_stop(app)


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
                _shutdown(connection, socket.SHUT_RD)
    return response

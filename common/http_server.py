"""Runs gunicorn for the gateway and the worker: one process with threads, logging like the rest of the program.

Beside it there may be a second process (`companion.py`).

`_Worker` overrides methods of gunicorn that its documentation does not cover. `tests/common/test_http_server.py` lists
each of them with the promise that depends on it.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import resource
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import structlog
from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from common.companion import Companion, CompanionProcess
from common.http_connection import Connection, PlainConnection, SecureConnection, shut_down
from common.request_heads import RequestHeads

log = structlog.get_logger(__name__)

# Maximum number of threads of a server for plain HTTP whose requests wait: for their client, or for something else.
AWAY = 400
# Maximum number of open connections, of those that wait for their next request, and of files for everything else.
CONNECTIONS, KEPT, OTHER_FILES = 2000, 500, 500
FIRST_BYTE_S = 1.0
UNREAD_BODY_S = 5.0
NOTIFY_S = 1.0
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


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, except that clients that stall or keep a closed connection open delay no other client.

    Without TLS, `threads` is the number of requests that are worked on at once. Those that wait have threads besides,
    a request gets its thread when its head is complete, and those for `urgent` paths have a thread of their own.
    Requests from addresses that are not `expected` run on UNEXPECTED threads of their own. While all of these are busy,
    further such connections are closed unread.
    """

    wsgi = None  # until it is loaded
    _notified_at = -math.inf

    def init_process(self) -> None:
        self._unexpected = ThreadPoolExecutor(UNEXPECTED, thread_name_prefix="unexpected")
        self._places = threading.BoundedSemaphore(UNEXPECTED)
        self._urgent = ThreadPoolExecutor(1, thread_name_prefix="urgent")
        self._at_work = None if self.cfg.is_ssl else threading.BoundedSemaphore(self.cfg.threads)
        self._heads = RequestHeads(self)
        self.max_keepalived = KEPT
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

    def accept(self, listener: socket.socket) -> None:
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            self._heads.close_oldest()  # no file is left: gunicorn would end

    def enqueue_req(self, conn: Any) -> None:
        if not self.app.expected(str(conn.client[0]) if conn.client else ""):
            self._enqueue_unexpected(conn)
        elif self._at_work is None:
            super().enqueue_req(conn)
        else:
            self._heads.read(conn)

    def head_read(self, conn: Any, method: bytes, path: bytes) -> None:
        """Handle the request whose head has been read. For RequestHeads."""
        urgent = method == b"GET" and path.decode("latin-1") in self.app.urgent
        pool: Executor = self._urgent if urgent else self.tpool
        handle = self._handle_urgent if urgent else self.handle
        pool.submit(handle, conn).add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def drop(self, conn: Any) -> None:
        """Close a connection that no thread handles. For RequestHeads."""
        self.nr_conns -= 1
        conn.close()

    def notify(self) -> None:
        if (now := time.monotonic()) - self._notified_at >= NOTIFY_S:  # gunicorn does it after every event
            self._notified_at = now
            super().notify()

    def murder_pending(self) -> None:
        super().murder_pending()
        self._heads.close_late()

    def _enqueue_unexpected(self, conn: Any) -> None:
        if self._places.acquire(blocking=False):
            self._unexpected.submit(self.handle, conn).add_done_callback(partial(self._unexpected_done, conn))
        else:
            self.drop(conn)

    def _unexpected_done(self, conn: Any, handled: Future[Any]) -> None:
        self._places.release()
        self.method_queue.defer(self.finish_request, conn, handled)

    def handle(self, conn: Any) -> Any:
        if not isinstance(conn.sock, Connection):
            conn.sock = PlainConnection(fileno=conn.sock.detach())
        if self._at_work is None:
            return self._handled(conn)
        if not conn.initialized and not conn.wait_for_data(FIRST_BYTE_S):
            return _DEFER
        conn.sock.place = self._at_work
        with self._at_work:
            return self._handled(conn)

    def _handle_urgent(self, conn: Any) -> Any:
        conn.sock.place = None
        return self._handled(conn)

    def _handled(self, conn: Any) -> Any:
        keep = super().handle(conn)
        if keep is False:
            # Otherwise gunicorn waits up to two seconds for the client to hang up, on the thread that accepts.
            with suppress(OSError):
                shut_down(conn.sock, socket.SHUT_RDWR)
        return keep

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.sock.begin(req)
        try:
            keep = super().handle_request(req, conn)
        finally:
            conn.sock.flush()
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


class _Master(Arbiter):  # type: ignore[misc]
    """Forks the serving process, and its companion if there is one, and replaces the one that has died."""

    def spawn_worker(self) -> Any:
        running = [type(worker) for worker in self.WORKERS.values()]
        lacks_companion = running.count(CompanionProcess) < running.count(_Worker)
        self.worker_class = CompanionProcess if self.app.has_companion and lacks_companion else _Worker
        return super().spawn_worker()


class Server(BaseApplication):  # type: ignore[misc]
    """Serves the app that `make_app` returns in the serving process. `options` are gunicorn's settings.

    `tls`: serve HTTPS only, with this context's certificate. `on_stop`: called in the serving process when it is asked
    to stop, before it waits for requests in progress. `expected(address)`: whether an address may use all threads.
    `urgent`: paths whose GET requests have a thread of their own; not with TLS. `make_companion`: called in a process
    beside the serving one, which runs what it returns. gunicorn's hooks are called there too, with a worker whose
    `wsgi` is None.
    """

    def __init__(
        self,
        make_app: Callable[[], Flask],
        *,
        tls: ssl.SSLContext | None = None,
        on_stop: Callable[[Flask], object] = lambda app: None,
        expected: Callable[[str], bool] = lambda address: True,
        urgent: Collection[str] = (),
        make_companion: Callable[[], Companion] | None = None,
        **options: Any,
    ) -> None:
        self._make_app, self._on_stop, self.expected, self.urgent = make_app, on_stop, expected, urgent
        self.make_companion, self.has_companion = make_companion, make_companion is not None
        if tls is not None:
            tls.sslsocket_class = SecureConnection
            # gunicorn requires a file and would read it at every connection.
            options |= {"certfile": os.devnull, "ssl_context": lambda config, default: tls}
        self._options = {
            "workers": 1 if make_companion is None else 2,
            "worker_class": _Worker,
            "logger_class": _Logger,
            "control_socket_disable": True,  # its path is the same for all servers of a user
            # Otherwise any local process, including a proxy's clients, could set scheme and path by header.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "worker_connections": min(CONNECTIONS, max(_files() - OTHER_FILES, KEPT)),  # more wait in the backlog
            "backlog": 1024,
            **options,
        }
        super().__init__()

    def run(self) -> None:
        _Master(self).run()

    def load_config(self) -> None:
        for key, value in self._options.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        return self._make_app()

    def stopping(self, app: Flask | None) -> None:
        """Call `on_stop`; `app` is None when the process is asked to stop before it has loaded the app."""
        if app is not None:
            self._on_stop(app)


def _files() -> int:
    """Allow this process as many open files as it may have, and return their number."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return CONNECTIONS + OTHER_FILES if most == resource.RLIM_INFINITY else most

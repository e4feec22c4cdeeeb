"""gunicorn from Python, for both servers of the house: one process, threads, its log lines like all others."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from flask import Flask, Response, request
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

IDLE_S = 60.0
HANDSHAKE_S = 10.0
CHUNK_BYTES, DRAIN_CHUNKS = 65536, 16
STRANGERS = 16  # connections of theirs that are read at once


class _Logger(glogging.Logger):  # type: ignore[misc]
    """Hands gunicorn's lines to the root logger instead of writing them itself."""

    def setup(self, cfg: Any) -> None:
        for logger in (self.error_log, self.access_log):
            logger.handlers[:] = []
            logger.propagate = True
            logger.setLevel(logging.INFO)

    def warning(self, msg: str, *args: Any, **kwargs: Any) -> None:
        if msg.startswith("Invalid request from"):  # goes on to quote the request, keys and signatures in it
            msg = ": ".join(msg.split(": ")[:2])
        super().warning(msg, *args, **kwargs)

    def exception(self, msg: str, *args: Any, **kwargs: Any) -> None:
        super().exception(msg, *(str(arg).partition("?")[0] for arg in args), **kwargs)


class _Impatient(socket.socket):
    """Ends when a client neither sends nor reads for IDLE_S. gunicorn waits for ever once a request has begun."""

    request: Any = None  # gunicorn's, the one that is being answered
    read_to_end = False

    def setblocking(self, flag: bool, /) -> None:
        self.settimeout(IDLE_S if flag else 0.0)

    def recv(self, *args: Any) -> bytes:
        with _stalled_is_gone():
            return super().recv(*args)

    def sendall(self, *args: Any) -> None:
        with _stalled_is_gone():
            super().sendall(*args)


class _Connection(_Impatient): ...


class _SecureConnection(_Impatient, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(HANDSHAKE_S)  # of all of it
        with _stalled_is_gone():
            super().do_handshake(block)
        self.setblocking(True)


@contextmanager
def _stalled_is_gone() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        # the kind that gunicorn does not report as a fault of the server
        raise ConnectionResetError(errno.ECONNRESET, "The client has stalled.") from error


def _shutdown(connection: socket.socket, how: int) -> None:
    # SSLSocket's own ends the encryption first: what is sent after it would be readable
    socket.socket.shutdown(connection, how)


class _Worker(ThreadWorker):  # type: ignore[misc]
    """gthread, but clients that stall or keep a closed connection open hold nobody up.

    gunicorn 27 waits up to two seconds for a hang-up, on the one thread that accepts connections; once both
    directions are shut down there is nothing left to wait for.

    Where the server says who is expected, all others share a few threads of their own. While these are taken a further
    stranger is hung up on before a byte of it is read, so that strangers hold up nobody but each other.
    """

    def handle_exit(self, sig: int, frame: object) -> None:
        super().handle_exit(sig, frame)
        self.method_queue.defer(self.app.stopping, self.wsgi)  # outside the signal handler, whatever it locks

    def is_parent_alive(self) -> bool:
        if super().is_parent_alive():
            return True
        # Killed: its successor needs the address now, and gunicorn would hold it until the last connection is closed.
        self.handle_exit(signal.SIGTERM, None)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        return False

    def init_process(self) -> None:
        self._strangers = ThreadPoolExecutor(STRANGERS, thread_name_prefix="stranger")
        self._places = threading.BoundedSemaphore(STRANGERS)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        if self.app.expected(str(conn.client[0]) if conn.client else ""):
            super().enqueue_req(conn)
        elif self._places.acquire(blocking=False):
            self._strangers.submit(self.handle, conn).add_done_callback(partial(self._seen_off, conn))
        else:
            self.nr_conns -= 1
            conn.close()

    def _seen_off(self, conn: Any, handled: Future[Any]) -> None:
        self._places.release()
        self.method_queue.defer(self.finish_request, conn, handled)

    def handle(self, conn: Any) -> Any:
        if not isinstance(conn.sock, _Impatient):
            conn.sock = _Connection(fileno=conn.sock.detach())
        keep = super().handle(conn)
        if keep is False:
            with suppress(OSError):
                _shutdown(conn.sock, socket.SHUT_RDWR)
        return keep

    def handle_request(self, req: Any, conn: Any) -> Any:
        conn.sock.request = req
        keep = super().handle_request(req, conn)
        if conn.sock.read_to_end:
            with suppress(OSError):  # closed over what has come already, the connection would take the answer along
                for _ in range(DRAIN_CHUNKS):
                    if not conn.sock.recv(CHUNK_BYTES):
                        break
        return keep

    def _keepalive_after(self, conn: Any, keepalive: Any) -> Any:
        try:
            return super()._keepalive_after(conn, keepalive)
        except ParseException:  # what nobody read of the body is malformed: gunicorn would answer a second time
            return False


class Server(BaseApplication):  # type: ignore[misc]
    """Serves what `make_app` returns, made in the serving process. `options` are gunicorn's settings.

    With `tls` it speaks HTTPS and nothing else, with the certificate that is loaded there. `on_stop` is called in the
    serving process when it is told to stop, before it waits for the requests that are under way. `expected` tells of
    an address whether its calls come before those of strangers.
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
            # gunicorn asks for a file, which it would read anew at every connection
            options |= {"certfile": os.devnull, "ssl_context": lambda config, default: tls}
        self._options = {
            "workers": 1,
            "worker_class": _Worker,
            "logger_class": _Logger,
            "control_socket_disable": True,  # would lie at one path for all servers of a user
            # Else anybody on this machine, a proxy's clients too, sets scheme and path by header.
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
        """Once, in the serving process. Without an app it was told to stop before it had one."""
        if app is not None:
            self._on_stop(app)


def read_no_more(response: Response) -> Response:
    """For `app.after_request`: end the connection where somebody would have to read on before it is used again.

    Else the rest of a body could be taken for the next request: its sender would write what others behind the same
    proxy are taken to have asked.
    """
    if _body_may_be_unread(response):
        response.headers["Connection"] = "close"
        # gunicorn ignores that header, and would wait on one of its threads for the rest of the body.
        connection = request.environ.get("gunicorn.socket")
        if connection is not None:
            connection.request.force_close()
            connection.read_to_end = True
            with suppress(OSError):
                _shutdown(connection, socket.SHUT_RD)
    return response


def _body_may_be_unread(response: Response) -> bool:
    announced = request.content_length or "Transfer-Encoding" in request.headers
    return bool(announced) and (response.status_code >= 400 or request.method not in {"POST", "PUT"})

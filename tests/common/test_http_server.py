"""`common.http_server` depends on details of gunicorn that its documentation does not promise. A failure here names
what an upgrade of gunicorn would take away; the behaviour itself is tested in `tests/gateway/api/test_threads.py`."""

from __future__ import annotations

import inspect
import socket
import ssl

import pytest
import structlog
from gunicorn import sock
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import InvalidRequestLine
from gunicorn.http.message import Request
from gunicorn.http.parser import Parser
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from common import http_server

CLIENTS = "connections of other addresses have their own threads"
STALLED = "a client that stalls is cut off"
HANG_UP = "a client that does not hang up delays no other"
UNREAD = "an unread body ends the connection after one response"
STOP = "the app gets its signal to stop before its requests are waited for"
KILLED = "the address is free soon after the master is killed"
SECRETS = "no secret in a malformed request reaches the log"
HOOKS: list[tuple[type, str, list[str], str]] = [
    (ThreadWorker, "enqueue_req", ["conn"], CLIENTS),
    (ThreadWorker, "finish_request", ["conn", "fs"], CLIENTS),
    (PollableMethodQueue, "defer", ["callback", "args"], f"{CLIENTS}; {STOP}"),
    (ThreadWorker, "handle", ["conn"], f"{STALLED}; {HANG_UP}"),
    (TConn, "close", ["graceful"], CLIENTS),
    (ThreadWorker, "handle_request", ["req", "conn"], UNREAD),
    (Parser, "finish_body", ["deadline", "max_bytes"], UNREAD),
    (Request, "force_close", [], UNREAD),
    (ThreadWorker, "handle_exit", ["sig", "frame"], STOP),
    (ThreadWorker, "is_parent_alive", [], KILLED),
    (ThreadWorker, "set_accept_enabled", ["enabled"], KILLED),
    (Worker, "handle_error", ["req", "client", "addr", "exc"], SECRETS),
    (Logger, "setup", ["cfg"], "gunicorn logs like everything else"),
    (Logger, "warning", ["msg", "args", "kwargs"], SECRETS),
    (Logger, "exception", ["msg", "args", "kwargs"], SECRETS),
]


@pytest.mark.parametrize(("owner", "name", "parameters", "promise"), HOOKS, ids=lambda value: str(value)[:40])
def test_gunicorn_has_the_hook_of_each_promise(owner: type, name: str, parameters: list[str], promise: str) -> None:
    hook = getattr(owner, name, None)
    lost = f"gunicorn has changed {owner.__name__}.{name}. Without it this no longer holds: {promise}."
    assert hook is not None, lost
    assert [parameter for parameter in inspect.signature(hook).parameters if parameter != "self"] == parameters, lost


def test_gunicorn_uses_the_attributes_that_are_read_and_set() -> None:
    worker = ThreadWorker(1, 1, [], None, 30, Config(), None)
    worker.tmp.close()
    assert (worker.nr_conns, worker.sockets) == (0, []), CLIENTS
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = TConn(Config(), ours, ("192.0.2.1", 1), ("127.0.0.1", 2))
        assert (conn.sock, conn.client[0]) == (ours, "192.0.2.1"), f"{CLIENTS}; {STALLED}"
        assert hasattr(conn, "parser"), UNREAD


def test_gunicorn_wraps_sockets_with_the_context_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = http_server._SecureConnection
    config = Config()
    config.set("ssl_context", lambda config, default: context)
    ours, theirs = socket.socketpair()
    with theirs, sock.ssl_wrap_socket(ours, config) as wrapped:
        assert isinstance(wrapped, http_server._SecureConnection), "a handshake has a time limit"


class _Logging(http_server._Worker):
    def __init__(self) -> None:
        self.cfg = Config()
        self.log = http_server._Logger(self.cfg)


def test_a_rejected_request_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, structlog.testing.capture_logs() as logs:
        _Logging().handle_error(None, ours, ("192.0.2.1", 1), InvalidRequestLine("GET /files/x?signature=secret"))
        assert theirs.recv(100).startswith(b"HTTP/1.1 400 ")
    assert logs == [
        {
            "event": "request.rejected",
            "log_level": "warning",
            "address": "192.0.2.1",
            "reason": "InvalidRequestLine",
        }
    ]
    assert "secret" not in caplog.text


def test_an_error_is_logged_without_the_query_of_its_request(caplog: pytest.LogCaptureFixture) -> None:
    _Logging().log.exception("Error handling request %s %s", "GET", "/files/x?signature=secret")
    assert "/files/x" in caplog.text and "secret" not in caplog.text

"""`common.http_server` depends on details of gunicorn that its documentation does not promise. A failure here names
what an upgrade of gunicorn would take away; the behaviour itself is tested below, and in
`tests/gateway/api/test_threads.py`."""

from __future__ import annotations

import inspect
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
import structlog
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import InvalidRequestLine
from gunicorn.http.message import Request
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import Unreader
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from common import http_server
from scripts.stack import free_port
from tests.conftest import ROOT
from tests.servers import eventually

CLIENTS = "connections of other addresses have their own threads"
HEADS = "a client that sends its request's head slowly holds no thread"
STALLED = "a client that stalls is cut off"
HANG_UP = "a client that does not hang up delays no other"
UNREAD = "an unread body ends the connection after one response"
STOP = "the app gets its signal to stop before its requests are waited for"
KILLED = "the address is free soon after the master is killed"
COMPANION = "the process beside the serving one is supervised like it"
SECRETS = "no secret in a malformed request reaches the log"
HOOKS: list[tuple[type, str, list[str], str]] = [
    (ThreadWorker, "enqueue_req", ["conn"], f"{CLIENTS}; {HEADS}"),
    (ThreadWorker, "accept", ["listener"], HEADS),
    (ThreadWorker, "murder_pending", [], HEADS),
    (TConn, "init", [], HEADS),
    (Unreader, "take_buffered", [], HEADS),
    (Unreader, "unread", ["data"], HEADS),
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
    (Arbiter, "spawn_worker", [], COMPANION),
    (Worker, "init_process", [], COMPANION),
    (Worker, "load_wsgi", [], COMPANION),
    (Worker, "run", [], COMPANION),
    (Worker, "notify", [], COMPANION),
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
    assert (worker.poller, worker.max_keepalived) == (None, 999), HEADS
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = TConn(Config(), ours, ("192.0.2.1", 1), ("127.0.0.1", 2))
        assert (conn.sock, conn.client[0]) == (ours, "192.0.2.1"), f"{CLIENTS}; {STALLED}"
        assert hasattr(conn, "parser"), UNREAD


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


APP = """
import os, sys, time
from pathlib import Path
from flask import Flask
from common.http_server import Server

app = Flask("app")
app.add_url_rule("/health", "health", lambda: str(os.getpid()))
app.add_url_rule("/other", "other", lambda: "other")

handled = app.wsgi_app
app.wsgi_app = lambda environ, start: 1 / 0 if environ["PATH_INFO"] == "/broken" else handled(environ, start)

@app.get("/hold")
def hold():
    Path("held-" + str(time.monotonic_ns())).touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return "held"

Server(lambda: app, bind="127.0.0.1:" + sys.argv[1], threads=2, urgent={"/health"}, graceful_timeout=1).run()
"""


@contextmanager
def serving(folder: Path, *, files: int | None = None) -> Iterator[str]:
    """Run APP with two threads until the block ends; yields its URL. `files`: how many it may open."""
    port = free_port()

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    process = subprocess.Popen(
        [sys.executable, "-c", APP, str(port)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        preexec_fn=limit,
    )
    try:
        eventually(lambda: _responds(f"http://127.0.0.1:{port}/health"))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _responds(url: str) -> bool:
    try:
        return requests.get(url, timeout=30).ok
    except requests.ConnectionError:
        return False


@pytest.mark.slow
def test_an_urgent_path_has_a_thread_of_its_own(tmp_path: Path) -> None:
    with serving(tmp_path) as url, ExitStack() as stack:
        for path in ("/hold", "/hold", "/other", "/healthy", "/health/"):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            eventually(lambda path=path: path != "/hold" or any(tmp_path.glob("held-*")))  # type: ignore[misc]
        eventually(lambda: len(list(tmp_path.glob("held-*"))) == 2)
        with requests.Session() as session:
            for target in ("/health", "/health?x=/y", "/health"):  # one connection, kept
                assert session.get(f"{url}{target}", timeout=30).ok
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{url}/other", timeout=0.5)
        (tmp_path / "go").touch()
        assert requests.get(f"{url}/other", timeout=30).text == "other"


@pytest.mark.slow
def test_a_bug_outside_the_application_has_a_response(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        assert [requests.get(f"{url}/broken", timeout=30).status_code for _ in range(2)] == [500, 500]
        assert requests.head(f"{url}/other", timeout=30).headers["Content-Length"] == "5"


@pytest.mark.slow
def test_pipelined_requests_get_their_responses_in_order(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
            last = "GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            kept = ["/other", "/health", "/other", "/health"]
            heads = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in kept) + "\r\n" + last
            connection.sendall(heads[:-3].encode())
            received = b""
            while received.count(b"HTTP/1.1 200") < 4:
                received += connection.recv(65536)
            connection.sendall(heads[-3:].encode())
            while chunk := connection.recv(65536):
                received += chunk
        bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 ")[1:]]
        process_id = requests.get(f"{url}/health", timeout=30).content
        assert bodies == [b"other", process_id, b"other", process_id, b"other"]


@pytest.mark.slow
def test_more_connections_than_files_end_no_process(tmp_path: Path) -> None:
    with serving(tmp_path, files=120) as url, ExitStack() as stack:
        process_id = requests.get(f"{url}/health", timeout=30).text
        for _ in range(200):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))))
            connection.sendall(b"GET /health HTT")
        assert requests.get(f"{url}/health", timeout=30).text == process_id

"""Heads of requests that arrive in pieces, late, or never."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn

from common import request_heads
from common.request_heads import HEAD_BYTES, RequestHeads

REQUEST = b"POST /jobs?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"


class Worker:
    """Records what it is called with."""

    def __init__(self) -> None:
        self.poller = selectors.DefaultSelector()
        self.read: list[tuple[bytes, bytes, bytes]] = []
        self.refused: list[Exception] = []
        self.dropped: list[Any] = []
        self.heads = RequestHeads(self)
        self._stack = ExitStack()

    def head_read(self, conn: Any, method: bytes, path: bytes) -> None:
        self.read.append((method, path, conn.parser.unreader.take_buffered()))

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        self.refused.append(exc)

    def drop(self, conn: Any) -> None:
        self.dropped.append(conn)
        conn.close()

    def connect(self, first: bytes = b"") -> tuple[socket.socket, Any]:
        """The client's end of a new connection on which `first` has been sent, and gunicorn's object."""
        ours, theirs = socket.socketpair()
        conn = TConn(Config(), ours, ("192.0.2.1", 1), ("127.0.0.1", 2))
        self._stack.enter_context(theirs)
        self._stack.callback(conn.close)
        theirs.sendall(first)
        self.heads.read(conn)
        return theirs, conn

    def go_on(self) -> None:
        for key, _ in self.poller.select(0):
            key.data(key.fileobj)

    def close(self) -> None:
        self._stack.close()
        self.poller.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_a_head_is_handed_over_when_it_is_complete(worker: Worker) -> None:
    client, _ = worker.connect()
    for i in range(len(REQUEST)):
        assert worker.read == []
        client.sendall(REQUEST[i : i + 1])
        worker.go_on()
    assert worker.read == [(b"POST", b"/jobs", REQUEST)]
    assert worker.dropped == [] and not worker.poller.get_map()


@pytest.mark.parametrize("sent", [REQUEST, REQUEST + b"body", REQUEST + REQUEST])
def test_what_has_arrived_at_once_needs_no_waiting(worker: Worker, sent: bytes) -> None:
    worker.connect(sent)
    assert worker.read == [(b"POST", b"/jobs", sent)]


def test_empty_lines_before_a_request_are_no_head(worker: Worker) -> None:
    """gunicorn would wait for the request on a thread."""
    client, _ = worker.connect(b"\r\n\r\n\r\n\r\n")
    client.sendall(b"\r\n\r\n")
    worker.go_on()
    assert (worker.read, worker.dropped) == ([], [])
    client.sendall(REQUEST)
    worker.go_on()
    assert worker.read == [(b"POST", b"/jobs", REQUEST)]


def test_a_second_request_that_has_been_read_with_the_first_is_found(worker: Worker) -> None:
    _, conn = worker.connect(REQUEST)
    conn.parser.unreader.unread(REQUEST)
    worker.heads.read(conn)
    assert worker.read == 2 * [(b"POST", b"/jobs", REQUEST)]


def test_a_closed_connection_is_dropped(worker: Worker) -> None:
    client, conn = worker.connect(b"GET / HTT")
    client.close()
    worker.go_on()
    assert (worker.read, worker.dropped) == ([], [conn])
    assert not worker.poller.get_map()


def test_a_head_that_is_too_large_is_refused(worker: Worker) -> None:
    client, conn = worker.connect(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(HEAD_BYTES // 1024):
        client.sendall(b"x" * 1024)
        worker.go_on()
    assert [type(error).__name__ for error in worker.refused] == ["LimitRequestHeaders"]
    assert (worker.read, worker.dropped) == ([], [conn])


def test_every_head_has_the_same_time_whatever_arrives(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(request_heads.time, "monotonic", lambda: now)
    client, slow = worker.connect(b"GET /")
    now += request_heads.HEAD_S / 2
    _, later = worker.connect()
    client.sendall(b"x")
    worker.go_on()
    worker.heads.close_late()
    assert worker.dropped == []
    now += request_heads.HEAD_S / 2
    worker.heads.close_late()
    assert worker.dropped == [slow]
    now += request_heads.HEAD_S / 2
    worker.heads.close_late()
    assert worker.dropped == [slow, later]


def test_of_too_many_the_oldest_is_dropped(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_heads, "HEADS", 3)
    connections = [worker.connect(b"G")[1] for _ in range(5)]
    assert worker.dropped == connections[:2]
    worker.heads.close_oldest()
    assert worker.dropped == connections[:3]

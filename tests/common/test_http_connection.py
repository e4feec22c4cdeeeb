"""Connections of `common.http_server`; also tested in `tests/gateway/api/test_threads.py`."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gunicorn import sock
from gunicorn.config import Config

from common import http_connection
from common.http_connection import PlainConnection, SecureConnection


def test_gunicorn_wraps_sockets_with_the_context_of_the_setting() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = SecureConnection
    config = Config()
    config.set("ssl_context", lambda config, default: context)
    ours, theirs = socket.socketpair()
    with theirs, sock.ssl_wrap_socket(ours, config) as wrapped:
        assert isinstance(wrapped, SecureConnection), "a handshake has a time limit"


HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"a body"
LARGE = 3_000_000  # bytes; more than the system buffers


@pytest.fixture
def pair() -> Iterator[tuple[PlainConnection, socket.socket]]:
    """The server's end of a connection, in a request, and its client's."""
    ours, theirs = socket.socketpair()
    with PlainConnection(fileno=ours.detach()) as connection, theirs:
        connection.setblocking(True)
        connection.begin(None)
        theirs.settimeout(30)
        yield connection, theirs


def test_head_and_body_are_sent_together(pair: tuple[PlainConnection, socket.socket]) -> None:
    connection, client = pair
    connection.sendall(HEAD)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1000)
    connection.sendall(BODY)
    assert client.recv(1000) == HEAD + BODY
    connection.sendall(BODY)  # nothing is held back any more
    assert client.recv(1000) == BODY


def test_a_response_without_body_is_sent_at_its_end(pair: tuple[PlainConnection, socket.socket]) -> None:
    connection, client = pair
    for _ in range(2):  # with keep-alive
        connection.begin(None)
        connection.sendall(HEAD)
        connection.flush()
        assert client.recv(1000) == HEAD
    connection.flush()
    connection.sendall(BODY)
    assert client.recv(1000) == BODY


def test_the_head_is_sent_before_a_file(pair: tuple[PlainConnection, socket.socket], tmp_path: Path) -> None:
    connection, client = pair
    (tmp_path / "file").write_bytes(BODY)
    connection.sendall(HEAD)
    with (tmp_path / "file").open("rb") as file:
        assert connection.sendfile(file) == len(BODY)
    assert client.recv(len(HEAD)) + client.recv(1000) == HEAD + BODY


def test_no_time_limit_takes_a_system_call(pair: tuple[PlainConnection, socket.socket]) -> None:
    """Each would give Python's lock to another thread, in every request."""
    connection, _ = pair
    for limit in (5.0, 0.0, 60.0):
        connection.settimeout(limit)
        assert (connection.gettimeout(), socket.socket.gettimeout(connection)) == (limit, 0.0)


@pytest.mark.parametrize("call", ["recv", "sendall"])
def test_the_place_is_lent_while_the_client_is_waited_for(
    pair: tuple[PlainConnection, socket.socket], call: str
) -> None:
    connection, client = pair
    connection.flush()
    connection.place = threading.BoundedSemaphore(1)
    with connection.place, ThreadPoolExecutor(1) as pool:
        done = pool.submit(connection.recv, 1) if call == "recv" else pool.submit(connection.sendall, bytes(LARGE))
        assert connection.place.acquire(timeout=30) and not done.done()
        connection.place.release()
        if call == "recv":
            client.sendall(b"x")
        else:
            with client.makefile("rb") as received:
                assert len(received.read(LARGE)) == LARGE
        done.result(30)
        assert not connection.place.acquire(blocking=False)


@pytest.mark.parametrize("call", ["recv", "sendall"])
def test_a_client_that_stalls_is_cut_off(pair: tuple[PlainConnection, socket.socket], call: str) -> None:
    connection, _ = pair
    connection.flush()
    connection.settimeout(0.05)
    with pytest.raises(ConnectionResetError):
        connection.recv(1) if call == "recv" else connection.sendall(bytes(LARGE))
    connection.settimeout(0.0)
    with pytest.raises(BlockingIOError):
        connection.recv(1) if call == "recv" else connection.sendall(bytes(LARGE))


def test_a_client_may_pause_as_long_as_it_is_not_slow_on_average(
    pair: tuple[PlainConnection, socket.socket],
) -> None:
    connection, client = pair
    connection._waited_s = http_connection.PATIENCE_S - 0.05
    client.sendall(bytes(16_000))
    assert len(connection.recv(16_000)) == 16_000
    assert connection._waited_s == pytest.approx(http_connection.PATIENCE_S - 1.05)
    connection._waited_s = http_connection.PATIENCE_S - 0.05
    with pytest.raises(ConnectionResetError):
        connection.recv(1)

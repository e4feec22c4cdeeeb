"""The servers that tests rely on."""

from __future__ import annotations

import socket
from contextlib import closing

from flask import Flask

from tests.emulators.runpod.server import Server
from tests.servers import FileServer, Reply


def _cut(port: int) -> bytes:
    """What the server responds when the client ends half-way through a body of 10 bytes."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        client.shutdown(socket.SHUT_WR)
        return client.recv(1000)


def test_the_file_server_takes_no_request_that_was_cut() -> None:
    with closing(FileServer()) as server:
        server.routes["/hook"] = Reply()
        assert _cut(server.port) == b""
        assert server.requests == []


def test_the_emulators_server_takes_no_request_that_was_cut() -> None:
    called = []
    app = Flask(__name__)
    app.before_request(lambda: called.append(1))
    server = Server(("127.0.0.1", 0), app)
    server.start()
    try:
        assert _cut(server.server_address[1]) == b""
        assert called == []
    finally:
        server.stop()

"""Connections of `common.http_server`. What they do is tested in `tests/gateway/api/test_threads.py`."""

from __future__ import annotations

import socket
import ssl

from gunicorn import sock
from gunicorn.config import Config

from common.http_connection import SecureConnection


def test_gunicorn_wraps_sockets_with_the_context_of_the_setting() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = SecureConnection
    config = Config()
    config.set("ssl_context", lambda config, default: context)
    ours, theirs = socket.socketpair()
    with theirs, sock.ssl_wrap_socket(ours, config) as wrapped:
        assert isinstance(wrapped, SecureConnection), "a handshake has a time limit"

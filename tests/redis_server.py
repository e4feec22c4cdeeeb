"""Redis for tests: Debian's package on loopback, without persistence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from scripts.stack import free_port
from tests.servers import eventually


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """The URL of a server, stopped at the end. Skips the test where Redis is missing, or fails with CI set."""
    program = shutil.which("redis-server")
    if program is None:
        reason = "Redis is missing; on Debian: apt-get install redis-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="reelay-redis-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            eventually(lambda: _answers(port))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait(10)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16) == b"+PONG\r\n"
    return False

"""A real gateway: `python -m gateway` with gunicorn, on its own port and data folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from common.http_connection import IDLE_S, PATIENCE_S
from common.request_heads import HEAD_S
from gateway.__main__ import STOP_S
from gateway.access import thread_limits
from gateway.api.waiting_room import LOOK_S
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.settings import Settings
from scripts.stack import free_port
from tests.conftest import ROOT
from tests.gateway.conftest import SECRET_KEY, Gateway
from tests.outputs import video_key
from tests.servers import eventually

API_KEY = "tests-api-key-0123456789"
THREADS = 16
WAITING = 12  # MAX_WAITING_PER_KEY
TRANSFERS = thread_limits.TRANSFERS // 2  # at once, of one key
MAX_ASSET_BYTES = 64_000_000
MAIN = """
from gateway import __main__ as gateway
from gateway.api import waiting_room
from common import http_connection, request_heads

http_connection.IDLE_S, http_connection.PATIENCE_S, request_heads.HEAD_S = {}, {}, {}
gateway.STOP_S, waiting_room.LOOK_S = {}, {}
gateway.main()
"""


@dataclass(frozen=True)
class Reply:
    """A response on a plain connection. `closed`: the server closed the connection after it."""

    status: int
    headers: dict[str, str]
    closed: bool


class Live:
    """Talks to the server over HTTP; `services` are in this process, on the same database and files."""

    def __init__(self, port: int, services: Gateway, process: subprocess.Popen[bytes] | None = None) -> None:
        self.port, self.services, self._process = port, services, process
        self.origin = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, *, key: str | None = API_KEY, **kwargs: Any) -> requests.Response:
        headers = {**({"X-API-Key": key} if key else {}), **kwargs.pop("headers", {})}
        url = path if path.startswith("http") else self.origin + path
        return requests.request(method, url, headers=headers, timeout=120, **kwargs)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> subprocess.Popen[bytes]:
        """Send the server a signal, by default as `docker stop` does. Returns its process."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process

    def dial(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def half_sent(self, head: str, body: bytes = b"x") -> socket.socket:
        """A connection on which `head` and `body` were sent and nothing follows."""
        connection = self.dial()
        connection.sendall("\r\n".join([*head.splitlines(), "Host: x", "", ""]).encode() + body)
        return connection

    def claimed_job(self, key_id: str | None = None) -> tuple[Job, Attempt]:
        """A running job, of this key or of API_KEY's, that no dispatcher touches."""
        key_id = key_id or self.services.keys.list()[0].id
        fields = {"key_id": key_id, "next_at": None, "status": JobStatus.RUNNING}
        job = self.services.add_job(attempt=AttemptState.CLAIMED, started_at=self.services.clock.now_ms(), **fields)
        return job, self.services.attempt(job)

    def upload_path(self, attempt: Attempt, max_bytes: int = MAX_ASSET_BYTES) -> str:
        upload = self.services.storage.presign_put(video_key(attempt), max_bytes=max_bytes, expires_at=attempt.deadline)
        return upload.url.removeprefix(self.origin)

    def files(self) -> list[Path]:
        return [path for path in self.services.settings.files_dir.rglob("*") if path.is_file()]

    def health_s(self) -> float:
        """How long `/health` takes."""
        started = time.monotonic()
        assert self.call("GET", "/health", key=None).status_code == 200
        return time.monotonic() - started


def read_reply(connection: socket.socket, *, wait_closed_s: float = 30.0) -> Reply:
    """Read the head of the next response, and whether the connection is closed after it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"the connection ended after {received!r}"
        received += chunk
    first, *lines = received.partition(b"\r\n\r\n")[0].decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(first.split()[1]), headers, _closed(connection, wait_closed_s))


def _closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


@contextmanager
def live(
    folder: Path,
    idle_s: float = IDLE_S,
    patience_s: float = PATIENCE_S,
    head_s: float = HEAD_S,
    stop_s: int = STOP_S,
    look_s: float = LOOK_S,
    port: int | None = None,
    **more: str,
) -> Iterator[Live]:
    """Run a gateway, by default on a free port, until the block ends. `more` are settings.

    Stalled clients are cut off after `idle_s`, slow ones after `patience_s`, requests without a whole head after `head_s`,
    transfers `stop_s` after the server got the signal to stop. Ends of jobs that another process committed are looked for every `look_s`.
    """
    port = port or free_port()
    settings = {
        "PROVIDERS": "local",
        "PORT": str(port),
        "DATA_DIR": str(folder),
        "SECRET_KEY": SECRET_KEY,
        "X_API_KEY": API_KEY,
        "THREADS": str(THREADS),
        "MAX_WAITING_PER_KEY": str(WAITING),
        "MIN_FREE_DISK_PERCENT": "0",
        "FAILED_KEYS_PER_ADDRESS": "0",
        "MAX_ASSET_BYTES": str(MAX_ASSET_BYTES),
        "LOCAL_WORKER_URL": "http://127.0.0.1:9",
        **more,
    }
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **settings}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN.format(idle_s, patience_s, head_s, stop_s, look_s)],
            cwd=folder,
            env=environ,
            stderr=log,
            stdout=log,
        )
    services = Gateway.wire(
        Settings(
            providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder, port=port, max_asset_bytes=MAX_ASSET_BYTES
        )
    )
    try:
        server = Live(port, services, process)
        eventually(lambda: process.poll() is not None or answers(server), 60)
        assert process.poll() is None, (folder / "log").read_text()
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
        services.dispatcher.close()
        services.store._engine.dispose()


def answers(server: Live) -> bool:
    try:
        return server.health_s() < 30
    except requests.ConnectionError:
        return False

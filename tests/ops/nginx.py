"""Debian's nginx on loopback with the shipped configuration, in front of a real gateway."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.gateway.api.live import Live, free_port, live
from tests.servers import PATIENCE_S, eventually, responds

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = ROOT / "ops/nginx.conf"
SETTINGS = {"TRUSTED_PROXY_HOPS": "1", "X_ACCEL_REDIRECT": "/stored"}  # as in compose.yaml


@dataclass(frozen=True)
class Front:
    """`front` is the gateway as clients see it, through nginx; `gateway` is reached without nginx."""

    front: Live
    gateway: Live
    nginx: subprocess.Popen[bytes]


def config(folder: Path, port: int, gateway_port: int, user: str = "root") -> str:
    """The shipped configuration with only addresses and folders replaced. `user`: runs nginx, if root starts it."""
    places = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    changes = {
        "pid /run/nginx.pid;": f"pid {folder}/pid;\n" + (f"user {user};" if os.getuid() == 0 else ""),
        "http {\n": "http {\n" + places,
        "/var/cache/nginx/uploads": f"{folder}/uploads",
        "/var/cache/nginx/pages": f"{folder}/pages",
        "alias /data/files/;": f"alias {folder}/data/files/;",
        "from=/data/files;": f"from={folder}/data/files;",
        "/dev/stdout plain": f"{folder}/access.log plain",
        "listen 80 ": f"listen 127.0.0.1:{port} ",
        "server gateway:8000;": f"server 127.0.0.1:{gateway_port};",
    }
    text = CONFIG.read_text()
    for shipped, here in changes.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, here)
    return text


@contextmanager
def fronted(folder: Path, **more: str) -> Iterator[Live]:
    """A gateway behind nginx: `port`, `origin` and all URLs are nginx's. `more` are settings."""
    with pair(folder, **more) as both:
        yield both.front


@contextmanager
def pair(folder: Path, user: str = "root", **more: str) -> Iterator[Front]:
    """A gateway and nginx in front of it. Arguments as for `config` and `fronted`."""
    assert NGINX is not None
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with live(folder / "data", PUBLIC_URL=f"http://127.0.0.1:{port}", **SETTINGS, **more) as gateway:
        (folder / "nginx.conf").write_text(config(folder, port, gateway.port, user))
        command = [NGINX, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        with (folder / "error.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        front = Live(port, gateway.services)
        try:
            eventually(lambda: process.poll() is not None or responds(f"{front.origin}/health"))
            assert process.poll() is None, (folder / "error.log").read_text()
            yield Front(front, gateway, process)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def latencies(calls: Sequence[Callable[[], object]], seconds: float, pause_s: float = 0.01) -> list[list[float]]:
    """Make `calls` alternately for `seconds`. Returns the sorted durations of each in seconds."""
    taken: list[list[float]] = [[] for _ in calls]
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        for call, took in zip(calls, taken, strict=True):
            started = time.monotonic()
            call()
            took.append(time.monotonic() - started)
            time.sleep(pause_s)
    return [sorted(took) for took in taken]

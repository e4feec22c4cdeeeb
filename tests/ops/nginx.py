"""Debian's nginx on loopback with the configuration that is shipped, before a real gateway; and who attacks it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.conftest import ROOT
from tests.gateway.api.live import Live, free_port, live
from tests.servers import eventually

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = ROOT / "ops/nginx.conf"


def config(folder: Path, port: int, gateway_port: int) -> str:
    """The shipped one, with this machine's addresses and folders and nothing else changed."""
    places = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    changes = {
        "pid /run/nginx.pid;": f"pid {folder}/pid;\n" + ("user root;" if os.getuid() == 0 else ""),
        "http {\n": "http {\n" + places,
        "/var/cache/nginx/pages": f"{folder}/pages",
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
def fronted(folder: Path) -> Iterator[Live]:
    """A gateway whose `port` and `origin` are nginx's; what it hands out leads through nginx too."""
    assert NGINX is not None
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with live(folder / "data", PUBLIC_URL=f"http://127.0.0.1:{port}", TRUSTED_PROXY_HOPS="1") as gateway:
        (folder / "nginx.conf").write_text(config(folder, port, gateway.port))
        command = [NGINX, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        with (folder / "error.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        front = Live(port, gateway.services)
        try:
            eventually(lambda: process.poll() is not None or up(front), 20)
            assert process.poll() is None, (folder / "error.log").read_text()
            yield front
        finally:
            process.terminate()
            process.wait(15)


def up(front: Live) -> bool:
    try:
        return front.call("GET", "/health", key=None).status_code == 200
    except requests.ConnectionError:
        return False


class Stalled:
    """`tests.ops.stalled` in a process of its own, while inside."""

    def __init__(self, port: int, count: int, requests: list[bytes]) -> None:
        command = [sys.executable, "-m", "tests.ops.stalled", str(port), str(count)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([request.decode() for request in requests]) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Stalled:
        assert self.count()[0] > 0
        return self

    def count(self) -> tuple[int, int]:
        """How many are open now, and how many have been opened in all."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        alive, opened = json.loads(self._process.stdout.readline())
        return alive, opened

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=20)


def latencies(call: Callable[[], object], seconds: float, pause_s: float = 0.02) -> list[float]:
    """How long each of the calls took that fit in `seconds`, sorted, in seconds."""
    ends_at, taken = time.monotonic() + seconds, []
    while (started := time.monotonic()) < ends_at:
        call()
        taken.append(time.monotonic() - started)
        time.sleep(pause_s)
    return sorted(taken)

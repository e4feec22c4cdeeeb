"""RunPod's side of its SDK, and `python -m handler` as a process that talks to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.settings import Settings
from tests.conftest import ROOT
from tests.handler.support import FOREVER_S
from tests.servers import PATIENCE_S, FileServer, Reply, Request, eventually


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(settings.output_dir.parent),
        "PYTHONPATH": str(ROOT),
        "WORK_DIR": str(settings.work_dir),
        "OUTPUT_DIR": str(settings.output_dir),
        "FETCH_ALLOW_ORIGINS": ",".join(settings.fetch_allow_origins),
        **more,
    }


@dataclass
class Platform:
    """Hands out jobs, receives their ends, may ask to stop one. The first `refuse` posts get a 500."""

    server: FileServer
    refuse: int = 0
    jobs: list[dict[str, Any]] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    takes: int = 0
    posts: list[dict[str, Any]] = field(default_factory=list)
    pings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.routes["/job-take/w"] = self._take
        self.server.routes["/job-stop/w"] = self._stop
        self.server.routes["/done"] = self._done
        self.server.routes["/ping"] = self._ping

    @property
    def environment(self) -> dict[str, str]:
        url = self.server.url
        return {
            "RUNPOD_WEBHOOK_GET_JOB": url("/job-take/w?x=1"),
            "RUNPOD_WEBHOOK_POST_OUTPUT": url("/done?job=$ID"),
            "RUNPOD_WEBHOOK_PING": url("/ping?x=1"),
            "RUNPOD_AI_API_KEY": "key",
            "RUNPOD_POD_ID": "w",
            "RUNPOD_ENDPOINT_ID": "e",
        }

    def give(self, raw: dict[str, Any]) -> str:
        id_ = f"rp_{len(self.jobs) + self.takes + 1}"
        self.jobs.append({"id": id_, "input": raw})
        return id_

    @property
    def ends(self) -> list[dict[str, Any]]:
        return [post for post in self.posts if post.get("status") != "IN_PROGRESS"]

    def _take(self, request: Request) -> Reply:
        self.takes += 1
        eventually(lambda: self.jobs or self.server.closing.is_set(), FOREVER_S)
        return _json(self.jobs.pop(0)) if self.jobs else Reply(204)

    def _stop(self, request: Request) -> Reply:
        eventually(lambda: self.stops or self.server.closing.is_set(), FOREVER_S)
        ids, self.stops = self.stops, []
        return _json({"jobsToStop": ids})

    def _done(self, request: Request) -> Reply:
        if self.refuse:
            self.refuse -= 1
            return Reply(500)
        self.posts.append(json.loads(request.body))
        return Reply(200, b"{}")

    def _ping(self, request: Request) -> Reply:
        self.pings.append(request.path)
        return Reply(200)


def _json(document: object) -> Reply:
    return Reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})


class Worker:
    """A running `python -m handler`; `lines` is its output so far."""

    def __init__(self, platform: Platform, settings: Settings, cwd: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=cwd,
            env=environment(settings, **platform.environment, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, event: str) -> bool:
        return any(event in line for line in self.lines)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def alive_in_group(self) -> list[int]:
        """The processes of its group, its child that pings included; FFmpeg has groups of its own."""
        folders = (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())
        return [int(folder.name) for folder in folders if _group(folder) == self.pid]

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                self.lines.append(line.rstrip("\n"))


@contextmanager
def running(platform: Platform, settings: Settings, cwd: Path, **env: str) -> Iterator[Worker]:
    worker = Worker(platform, settings, cwd, **env)
    try:
        yield worker
    finally:
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        worker.wait(PATIENCE_S)


def _group(folder: Path) -> int:
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0  # it ended while we looked
    return int(fields[2]) if fields[0] != "Z" else 0

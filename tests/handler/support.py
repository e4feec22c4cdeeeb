"""Helpers of the worker's tests: a gateway on loopback, servers that misbehave below HTTP, process lists."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.clock import to_rfc3339
from ffmpeg_ops.engine import confined
from ffmpeg_ops.operation import StopSignal
from handler.attempt import run_attempt
from handler.settings import Settings
from tests.conftest import ROOT
from tests.servers import PATIENCE_S, FileServer, Reply, Request
from wire.errors import JobError

OK = Reply(200, b"{}")
EVENTS, PUT = "/events/att_1", "/put/att_1.mp4"
EVENT_TOKEN = "token-of-this-attempt-alone"
FOREVER_S = 60.0


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
class Gateway:
    """The gateway of one attempt. `on_event` and `on_put` return its responses."""

    server: FileServer
    on_event: Callable[[dict[str, Any]], Reply] = lambda event: OK
    on_put: Callable[[Request], Reply] = lambda request: OK
    events: list[dict[str, Any]] = field(default_factory=list)
    puts: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server.routes[EVENTS] = self._event
        self.server.routes[PUT] = self._put

    def delivery(self, **more: Any) -> dict[str, Any]:
        return {
            "job_id": "job_1",
            "attempt_id": "att_1",
            "deadline": to_rfc3339(time.time_ns() // 1_000_000 + 600_000),
            "limits": {"max_asset_bytes": 5_000_000, "max_output_bytes": 50_000_000, "timeout_s": 60},
            "uploads": {"video": {"url": self.server.url(PUT) + "?signature=s3cret", "max_bytes": 50_000_000}},
            "events": {"url": self.server.url(EVENTS), "token": EVENT_TOKEN},
            **more,
        }

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def milestones(self) -> list[str]:
        """The types of all events but progress, whose number depends on the machine."""
        return [type_ for type_ in self.types if type_ != "progress"]

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type_]

    def _event(self, request: Request) -> Reply:
        assert request.headers["Authorization"] == f"Bearer {EVENT_TOKEN}"
        event = json.loads(request.body)
        self.events.append(event)
        return self.on_event(event)

    def _put(self, request: Request) -> Reply:
        assert request.method == "PUT"
        self.puts.append(request)
        return self.on_put(request)


@dataclass
class Attempt:
    """An attempt on a thread of its own, on which a test can act while it runs."""

    raw: dict[str, Any]
    settings: Settings
    stop: StopSignal = field(default_factory=StopSignal)
    progress: list[float] = field(default_factory=list)
    result: dict[str, Any] | None = None
    error: JobError | None = None

    def start(self) -> Attempt:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, seconds: float = PATIENCE_S) -> None:
        self._thread.join(seconds)
        assert not self.running, f"still running after {seconds} s"

    @property
    def failure(self) -> JobError:
        assert self.error is not None, self.result
        return self.error

    def _run(self) -> None:
        try:
            self.result = run_attempt(self.raw, self.settings, self.stop, self.progress.append)
        except JobError as error:
            self.error = error


@dataclass
class Job:
    """Makes the input of one operation from params by name, and runs it as an attempt that reports to `gateway`."""

    operation: str
    params: dict[str, Any]
    gateway: Gateway
    settings: Settings

    def __call__(self, **more: Any) -> dict[str, Any]:
        """The input, without a delivery unless one is given."""
        return {"operation": self.operation, **self.params, **more}

    def start(self, **more: Any) -> Attempt:
        """A running attempt, with a delivery by `gateway` unless another or none is given."""
        return Attempt(self(**{"delivery": self.gateway.delivery(), **more}), self.settings).start()

    def ended(self, **more: Any) -> Attempt:
        attempt = self.start(**more)
        attempt.join()
        return attempt

    def result(self, **more: Any) -> dict[str, Any]:
        """The result of an attempt that must succeed."""
        attempt = self.ended(**more)
        assert attempt.result is not None, attempt.error
        return attempt.result

    def error(self, **more: Any) -> JobError:
        """The error of an attempt that must fail."""
        return self.ended(**more).failure


def ffmpegs(parent: int | None = None) -> list[int]:
    """The ids of the running FFmpeg processes that `parent` (default: this process) started."""
    return [pid for pid, comm, ppid in _processes() if comm == "ffmpeg" and ppid == (parent or os.getpid())]


def decoders() -> list[int]:
    """The ids of the processes in which this process decodes images."""
    return children(confined.start())


def children(parent: int) -> list[int]:
    """Those that have ended and were not waited for included."""
    return [pid for pid, _, ppid in _processes(zombies=True) if ppid == parent]


def alive(pid: int) -> bool:
    return any(pid == living for living, _, _ in _processes())


def _processes(*, zombies: bool = False) -> Iterator[tuple[int, str, int]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue  # it ended while we looked
        state, ppid = rest.split()[:2]
        if zombies or state != "Z":
            yield int(folder.name), head.partition("(")[2], int(ppid)


@contextmanager
def deaf_server() -> Iterator[str]:
    """The origin of a server that never accepts: its queue is full, so connecting blocks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        time.sleep(0.05)
        yield f"http://127.0.0.1:{address[1]}"
        for one in waiting:
            one.close()

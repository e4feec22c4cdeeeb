"""Thousands of jobs in flight at RunPod: how often the gateway polls, and how soon it notices the end of a job."""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, rounded
from bench.gateway.client import Load, drive
from bench.gateway.sizes import Sizes, gateway, post
from ffmpeg_ops.operation import StopSignal
from handler.events import Events, Reporter
from handler.upload import upload
from tests.emulators.runpod.jobs import Job, Queue
from tests.servers import eventually
from wire.envelope import parse_job_input
from wire.media_types import MP4

WORKERS, WORK_S = 10, 1.0
WINDOW_S = 10  # the window of RunPod's own limits
SUBMITTED_S, SEEN_S = 240, 120
CONTENT = b"....ftyp"


@dataclass(frozen=True)
class Seen:
    """The highest rate of polls in any WINDOW_S, and the delay in seconds until each end was noticed."""

    polls_per_s: float
    seconds: list[float]


def measure(folder: Path, sizes: Sizes) -> list[Figure]:
    polled = fly(folder / "polled", sizes, events=False)
    pushed = fly(folder / "pushed", sizes, events=True)
    jobs = f"{sizes.in_flight} jobs in flight"
    return [
        Figure("gateway.polls_per_s", rounded(polled.polls_per_s), "1/s", "≤ 100", f"{jobs}, events off: `/status`"),
        Figure("gateway.seen_s", rounded(max(polled.seconds)), "s", "≤ 60", "the same: longest until an end was seen"),
        Figure("gateway.pushed_polls_per_s", rounded(pushed.polls_per_s), "1/s", "≤ 100", f"{jobs}, events on"),
        Figure("gateway.pushed_seen_s", rounded(max(pushed.seconds)), "s", "≤ 1", "longest until an end was seen"),
    ]


def fly(folder: Path, sizes: Sizes, *, events: bool) -> Seen:
    with gateway(folder, WORKER_EVENTS=str(events).lower()) as (stack, runpod):
        began = time.monotonic()
        drive(Load(stack.port, (post(stack),), sizes.connections, count=sizes.in_flight))
        eventually(lambda: runpod.queue.counts()["inQueue"] >= sizes.in_flight, SUBMITTED_S)
        submitted_s = time.monotonic() - began
        workers = _Workers(runpod.queue, folder)
        polls = [(time.monotonic(), runpod.calls["status"])]

        def seen_all(ended_at: Mapping[str, float]) -> bool:
            time.sleep(1)
            polls.append((time.monotonic(), runpod.calls["status"]))
            return _finished_at(database).keys() >= ended_at.keys()

        ends_at, database = time.monotonic() + sizes.ending_s, folder / "data" / "reelay.db"
        while time.monotonic() < ends_at:
            seen_all({})
        ended_at = workers.stop()
        eventually(lambda: seen_all(ended_at), SEEN_S)
        finished_at = _finished_at(database)
    windows = zip(polls, polls[WINDOW_S:] or polls[-1:], strict=False)
    seen = Seen(
        max((after - before) / (end - begin) for (begin, before), (end, after) in windows),
        [(finished_at[job_id] - at_ms) / 1000 for job_id, at_ms in ended_at.items()],
    )
    print(
        f"events {'on' if events else 'off'}: submitted in {submitted_s:.0f} s, {len(seen.seconds)} ends seen within"
        f" {max(seen.seconds):.2f} s, {seen.polls_per_s:.0f} polls a second",
        file=sys.stderr,
    )
    return seen


class _Workers:
    """Threads that act as workers: take a job, claim it, wait, upload a few bytes and report the result."""

    def __init__(self, queue: Queue, folder: Path) -> None:
        self._queue, self._output = queue, folder / "output.mp4"
        self._output.write_bytes(CONTENT)
        self._over = threading.Event()
        self._ended_at: dict[str, float] = {}
        self._threads = [threading.Thread(target=self._run, args=(f"worker{i}",)) for i in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, float]:
        """Stop; return when the work of each job ended, in ms UTC."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        return self._ended_at

    def _run(self, name: str) -> None:
        while not self._over.is_set():
            if job := self._queue.take(name, 1.0, lambda: not self._over.is_set()):
                self._work(name, job)

    def _work(self, name: str, job: Job) -> None:
        delivery, stop = parse_job_input(job.input).delivery, StopSignal()
        assert delivery is not None and "video" in delivery.uploads
        reporter = Events(delivery, stop) if delivery.events else Reporter()
        reporter.claim()
        time.sleep(WORK_S)
        upload(self._output, delivery.uploads["video"], MP4.mime, stop)
        size = {"size_bytes": len(CONTENT)}
        result = {"outputs": {"video": size}, "stats": {**size, "duration_s": WORK_S}}
        self._ended_at[delivery.job_id] = time.time() * 1000
        reporter.completed(result)
        reporter.close()
        self._queue.done(name, job.id, result)


def _finished_at(database: Path) -> dict[str, int]:
    """When the completed jobs finished, in ms UTC."""
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        return dict(connection.execute("SELECT id, finished_at FROM jobs WHERE status = 'completed'").fetchall())

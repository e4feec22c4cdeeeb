"""Workers that do no real work: they claim an attempt, wait, upload a few bytes and report the result."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ffmpeg_ops.operation import StopSignal
from handler.events import Events, Reporter
from handler.upload import upload
from tests.emulators.runpod.jobs import Job, Queue
from wire.envelope import JobInput, parse_job_input
from wire.media_types import MP4

WORKERS = 10
CONTENT = b"....ftyp"


class Workers:
    """Threads that take jobs from the endpoint. `work_s` returns for a job's params how long it takes.

    A job for which it returns None stays with its worker for ever, unclaimed, while the worker takes others.
    """

    def __init__(self, queue: Queue, folder: Path, work_s: Callable[[Mapping[str, Any]], float | None]) -> None:
        self._queue, self._output, self._work_s = queue, folder / "output.mp4", work_s
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
        job_input = parse_job_input(job.input)
        seconds = self._work_s(job_input.params)
        if seconds is None:
            return
        result, ended_at = work(job_input, seconds, self._output, StopSignal())
        assert job_input.delivery is not None
        self._ended_at[job_input.delivery.job_id] = ended_at
        self._queue.done(name, job.id, result)


def work(job_input: JobInput, seconds: float, output: Path, stop: StopSignal) -> tuple[Mapping[str, Any], float]:
    """Act as a worker that has got the input. Return the result, and when the work ended, in ms UTC."""
    delivery = job_input.delivery
    assert delivery is not None and "video" in delivery.uploads
    reporter = Events(delivery, stop) if delivery.events else Reporter()
    reporter.claim()
    stop.wait(seconds)
    upload(output, delivery.uploads["video"], MP4.mime, stop)
    size = {"size_bytes": output.stat().st_size}
    result = {"outputs": {"video": size}, "stats": {**size, "duration_s": seconds}}
    ended_at = time.time() * 1000
    reporter.completed(result)
    reporter.close()
    return result, ended_at

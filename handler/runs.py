"""The attempts of one process of the HTTP worker."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ffmpeg_ops.operation import StopSignal
from handler.attempt import run_attempt
from handler.settings import Settings
from wire.errors import JobError, Stopped, WorkerLost

KEPT_ENDS = 1000
SHUTDOWN_S = 4.0


@dataclass
class Run:
    """One attempt in this process."""

    #: Id of the attempt.
    attempt_id: str
    #: Stops the attempt.
    stop: StopSignal = field(default_factory=StopSignal)
    #: 0 to 1.
    progress: float = 0.0
    #: `running`, `completed`, `failed` or `cancelled`.
    status: str = "running"
    #: A ResultSchema document, once completed.
    result: Mapping[str, Any] | None = None
    #: The error as on the wire, once failed or cancelled.
    error: Mapping[str, Any] | None = None
    #: The thread that runs it; None once it has ended.
    thread: threading.Thread | None = None

    def document(self) -> dict[str, Any]:
        """The attempt as the worker's HTTP API shows it."""
        shown = {
            "attemptId": self.attempt_id,
            "status": self.status,
            "progress": self.progress,
            "result": self.result,
            "error": self.error,
        }
        return {name: value for name, value in shown.items() if value is not None}


class Busy(Exception):
    """All slots are taken."""


class Runs:
    """Runs at most `worker_concurrency` attempts at once, each once; remembers the last KEPT_ENDS that ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()

    def submit(self, attempt_id: str, raw_input: object) -> Run:
        """Start the attempt, or return the one that has this id. Raises Busy."""
        with self._lock:
            if attempt_id in self._runs:
                return self._runs[attempt_id]
            if self.active() >= self._settings.worker_concurrency:
                raise Busy
            run = self._runs[attempt_id] = Run(attempt_id)
            self._forget_old()
        run.thread = threading.Thread(target=self._work, args=(run, raw_input), name=attempt_id, daemon=True)
        run.thread.start()
        return run

    def get(self, attempt_id: str) -> Run | None:
        return self._runs.get(attempt_id)

    def active(self) -> int:
        return len(self._running())

    def shut_down(self) -> None:
        """Stop all attempts and wait until they have reported it, so that the gateway retries them at once."""
        running = self._running()
        for run in running:
            run.stop.set(WorkerLost("The worker was shut down."))
        for run in running:
            if (thread := run.thread) is not None:
                thread.join(SHUTDOWN_S)

    def _running(self) -> list[Run]:
        return [run for run in list(self._runs.values()) if run.status == "running"]

    def _work(self, run: Run, raw_input: object) -> None:
        def on_progress(fraction: float) -> None:
            run.progress = fraction

        try:
            run.result = run_attempt(raw_input, self._settings, run.stop, on_progress)
            run.progress, run.status = 1.0, "completed"
        except JobError as error:
            run.error = error.to_wire()  # not the error: its traceback would keep the attempt's memory alive
            run.status = "cancelled" if isinstance(error, Stopped) else "failed"
        run.stop, run.thread = StopSignal(), None

    def _forget_old(self) -> None:
        ended = [key for key, run in self._runs.items() if run.status != "running"]
        for key in ended[: max(0, len(ended) - KEPT_ENDS)]:
            del self._runs[key]

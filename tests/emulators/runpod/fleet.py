"""The autoscaler: starts and stops real worker processes as the queue requires."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.emulators.runpod.config import Config
from tests.emulators.runpod.faults import START, Faults
from tests.emulators.runpod.jobs import Queue

ROOT = Path(__file__).parents[3]
TICK_S = 0.05
# Leads the process group of the worker and its children. When this process ends in any way, the guard's standard input
# is closed and it kills the group, itself included. It is reaped last, so that the id of the group is not reused.
GUARD = ("sh", "-c", "read -r _; kill -KILL 0")


@dataclass(eq=False)
class Worker:
    """One worker. It has no process during its cold start, or when a test plays it."""

    id: str
    begins_at: float | None = None
    process: subprocess.Popen[bytes] | None = None
    guard: subprocess.Popen[bytes] | None = None
    ready: bool = False
    leaving: bool = False
    idle_since: float = 0.0
    heard_at: float = 0.0

    def kill(self) -> None:
        """Kill all its processes."""
        if self.guard and self.guard.returncode is None:
            os.killpg(self.guard.pid, signal.SIGKILL)


class Fleet:
    """The endpoint's workers. `environment(id)` returns the variables that the platform sets for one."""

    def __init__(
        self,
        config: Callable[[], Config],
        queue: Queue,
        faults: Faults,
        home: Path,
        environment: Callable[[str], dict[str, str]],
    ) -> None:
        self._config, self._queue, self._faults = config, queue, faults
        self._home, self._environment = home, environment
        self._workers: dict[str, Worker] = {}
        self._gone: set[str] = set()
        self._resting: list[float] = []  # when the places of crashed workers may be filled again
        self._crashes = 0  # since a worker was last ready
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autoscaler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Kill all workers."""
        self._closing.set()
        self._thread.join()
        for worker in self.all():
            worker.leaving = True
            worker.kill()
            self._ended(worker)

    def all(self) -> list[Worker]:
        with self._queue.changed:
            return list(self._workers.values())

    def known(self, worker_id: str) -> Worker:
        """The calling worker, which a test may play."""
        with self._queue.changed:
            if worker_id in self._gone:
                return Worker(worker_id, leaving=True)
            worker = self._workers.setdefault(worker_id, Worker(worker_id))
            worker.heard_at = time.monotonic()
            return worker

    def ready(self, worker_id: str) -> Worker:
        """The worker that asks for a job, and so is ready."""
        with self._queue.changed:
            worker = self.known(worker_id)
            if not worker.ready and not worker.leaving:
                worker.ready, worker.idle_since, self._crashes = True, time.monotonic(), 0
            return worker

    def retire(self, worker_id: str) -> None:
        """Stop the worker after its current job."""
        with self._queue.changed:
            if worker := self._workers.get(worker_id):
                self._drain(worker)

    def kill(self, worker_id: str) -> None:
        """Kill the worker. Raises KeyError when it is gone."""
        with self._queue.changed:
            self._workers[worker_id].kill()

    def counts(self) -> dict[str, int]:
        """The counts of /health."""
        with self._queue.changed:
            present = [worker for worker in self._workers.values() if not worker.leaving]
            running = sum(bool(self._queue.held_by(worker.id)) for worker in present)
            ready = sum(worker.ready for worker in present)
            starting, resting = len(present) - ready, len(self._resting)
        return {
            "idle": ready - running,
            "initializing": 0 if self._crashes else starting,
            "ready": ready - running,
            "running": running,
            "throttled": 0,
            "unhealthy": resting + (starting if self._crashes else 0),
        }

    # ---- on the autoscaler's thread

    def _run(self) -> None:
        while not self._closing.wait(TICK_S):
            self._queue.sweep()
            now = time.monotonic()
            for worker in self.all():
                if worker.process and worker.process.poll() is not None:
                    self._ended(worker)
                elif worker.ready and not worker.leaving and now - worker.heard_at > self._config().lost_after_s:
                    worker.kill()
                elif not worker.process and worker.begins_at is not None and now >= worker.begins_at:
                    self._begin(worker)
            self._scale(now)

    def _scale(self, now: float) -> None:
        config = self._config()
        with self._queue.changed:
            self._resting = [until for until in self._resting if until > now]
            live = [worker for worker in self._workers.values() if worker.begins_at is not None and not worker.leaving]
            busy = [worker for worker in live if self._queue.held_by(worker.id)]
            for worker in busy:
                worker.idle_since = now
            waiting_s = self._queue.waiting_s()
            overdue = sum(waited > config.queue_delay_s for waited in waiting_s)
            needed = len(busy) + max(overdue, 1 if waiting_s and not live else 0)
            for _ in range(min(max(needed, config.min_workers), config.max_workers) - len(live) - len(self._resting)):
                worker = Worker(secrets.token_hex(7), begins_at=now + config.cold_start_s)
                self._workers[worker.id] = worker
            idle_first = sorted(live, key=lambda worker: worker in busy)
            for worker in idle_first[: max(0, len(live) - config.max_workers)]:
                self._drain(worker)
            idle = [worker for worker in live if worker.ready and now - worker.idle_since > config.idle_timeout_s]
            for worker in idle[: max(0, len(live) - config.min_workers)]:
                self._drain(worker)

    def _begin(self, worker: Worker) -> None:
        config, folder = self._config(), self._home / worker.id
        folder.mkdir(parents=True)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),  # without settings of the SDK
            "PYTHONPATH": str(ROOT),
            "WORK_DIR": str(folder / "work"),
            "OUTPUT_DIR": str(self._home / "output"),
            **config.env,
            **self._environment(worker.id),
        }
        crash = self._faults.strike(START)
        command = ("sh", "-c", "exit 3") if crash else config.command
        guard = subprocess.Popen(GUARD, stdin=subprocess.PIPE, process_group=0)
        worker.guard = guard
        with (self._home / f"{worker.id}.log").open("ab") as log:
            worker.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=guard.pid,
            )

    def _drain(self, worker: Worker) -> None:
        """Give the worker no more jobs, end its long polls, and send SIGTERM, so that it ends after its current job."""
        if worker.leaving:
            return
        worker.leaving = True
        if worker.process:
            worker.process.terminate()
        else:
            self._forget(worker)
        self._queue.changed.notify_all()

    def _ended(self, worker: Worker) -> None:
        with self._queue.changed:
            worker.kill()  # leftovers
            for process in filter(None, (worker.process, worker.guard)):
                process.wait()
            if worker.guard and worker.guard.stdin:
                worker.guard.stdin.close()
            if not worker.ready and not worker.leaving:
                self._crashes += 1
                self._resting.append(time.monotonic() + self._config().crash_pause_s)
            worker.leaving = True
            self._forget(worker)

    def _forget(self, worker: Worker) -> None:
        self._workers.pop(worker.id, None)
        self._gone.add(worker.id)
        self._queue.lost(worker.id)

"""The endpoint's queue: jobs, their states, and who works on them."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.emulators.runpod.config import Config

QUEUED, RUNNING, COMPLETED = "IN_QUEUE", "IN_PROGRESS", "COMPLETED"
FAILED, CANCELLED, TIMED_OUT = "FAILED", "CANCELLED", "TIMED_OUT"
FINAL = frozenset({COMPLETED, FAILED, CANCELLED, TIMED_OUT})


@dataclass(eq=False)
class Job:
    """One job. Times are those of the queue's clock."""

    id: str
    input: Mapping[str, Any]
    execution_timeout_s: float
    ttl_s: float
    submitted_at: float
    status: str = QUEUED
    started_at: float | None = None
    heard_at: float = 0.0
    ended_at: float | None = None
    worker_id: str | None = None
    retries: int = 0
    output: Any = None
    error: str | None = None
    overwritten: bool = False  # by progress that came after the end: nothing ends it again

    def document(self) -> dict[str, Any]:
        """The response of /status, without the fields that are not known yet."""
        started, ended = self.started_at, self.ended_at
        fields = {
            "id": self.id,
            "status": self.status,
            "delayTime": None if started is None else round((started - self.submitted_at) * 1000),
            "executionTime": None if started is None or ended is None else round((ended - started) * 1000),
            "workerId": self.worker_id,
            "retries": self.retries,
            "output": self.output,
            "error": self.error,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def handed_over(self) -> dict[str, Any]:
        """The response of job-take. The platform drops an empty input."""
        return {"id": self.id, **({"input": self.input} if self.input else {})}


class Queue:
    """All jobs of the endpoint. `changed` guards them and is notified of every change."""

    def __init__(
        self,
        config: Callable[[], Config],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.totals = {"completed": 0, "failed": 0, "retried": 0}
        self._config, self._now = config, now
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []  # in the order of hand-over
        self._stops: dict[str, list[str]] = {}

    # ---- called by the job API

    def submit(self, raw: Mapping[str, Any]) -> Job:
        config, policy = self._config(), raw.get("policy") or {}
        job = Job(
            id=f"{uuid.uuid4()}-u1",
            input=raw["input"],
            execution_timeout_s=policy.get("executionTimeout", config.execution_timeout_s * 1000) / 1000,
            ttl_s=policy.get("ttl", config.ttl_s * 1000) / 1000,
            submitted_at=self._now(),
        )
        with self.changed:
            self._jobs[job.id] = job
            self._wait_in_line(job)
        return job

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def cancel(self, job: Job) -> None:
        """End the job unless it has ended."""
        with self.changed:
            if job.status not in FINAL:
                self._end(job, CANCELLED)

    def purge(self) -> int:
        """Cancel all jobs in the queue; return how many there were."""
        with self.changed:
            waiting = list(self._waiting)
            for job in waiting:
                self._end(job, CANCELLED)
        return len(waiting)

    def forget(self, job: Job) -> None:
        """Forget the job; a worker that runs it is asked to stop."""
        with self.changed:
            if job.status not in FINAL:
                self._end(job, CANCELLED)
            self._jobs.pop(job.id, None)

    def counts(self) -> dict[str, int]:
        with self.changed:
            running = sum(job.status == RUNNING for job in self._jobs.values())
            return {**self.totals, "inProgress": running, "inQueue": len(self._waiting)}

    def waiting_s(self) -> list[float]:
        """How long each queued job has waited."""
        with self.changed:
            return [self._now() - job.submitted_at for job in self._waiting]

    # ---- called by the worker API

    def take(self, worker_id: str, wait_s: float, may: Callable[[], bool]) -> Job | None:
        """The next job, as soon as there is one; None after `wait_s`, or when the worker `may` not take one."""
        with self.changed:
            if not self._wait_for(lambda: bool(self._waiting), wait_s, may):
                return None
            job = self._waiting.pop(0)
            job.status, job.worker_id = RUNNING, worker_id
            job.started_at = job.heard_at = self._now()
            return job

    def stops(self, worker_id: str, wait_s: float, may: Callable[[], bool]) -> list[str]:
        """The ids of the jobs that the worker must stop, as soon as there is one."""
        with self.changed:
            return self._stops.pop(worker_id) if self._wait_for(lambda: worker_id in self._stops, wait_s, may) else []

    def held_by(self, worker_id: str) -> list[Job]:
        with self.changed:
            return [job for job in self._jobs.values() if job.worker_id == worker_id and job.status == RUNNING]

    def heard(self, worker_id: str, job_ids: list[str]) -> None:
        with self.changed:
            for job in self.held_by(worker_id):
                if job.id in job_ids:
                    job.heard_at = self._now()

    def progress(self, worker_id: str, job_id: str, output: Any) -> None:
        with self.changed:
            if job := self._held(worker_id, job_id):
                job.output, job.heard_at = output, self._now()

    def done(self, worker_id: str, job_id: str, output: Any = None, error: Any = None) -> Job | None:
        """End a job that the worker holds; ignored for any other job."""
        with self.changed:
            job = self._held(worker_id, job_id)
            if job is not None:
                job.output = output
                job.error = None if error is None else str(error)
                self._end(job, COMPLETED if error is None else FAILED)
            return job

    def overwrite(self, job: Job, output: Any) -> None:
        """Let progress that arrives after the end win, as the platform does by mistake."""
        with self.changed:
            job.status, job.output, job.ended_at, job.overwritten = RUNNING, output, None, True
            self.changed.notify_all()

    def lost(self, worker_id: str) -> None:
        """Queue the jobs of a worker that has gone once more, or fail them."""
        with self.changed:
            for job in self.held_by(worker_id):
                if not job.overwritten:
                    self._lose(job)
            self._stops.pop(worker_id, None)
            self.changed.notify_all()

    def sweep(self) -> None:
        """End jobs that have run too long, forget those that have expired."""
        config, now = self._config(), self._now()
        with self.changed:
            for job in list(self._jobs.values()):
                expired = job.ended_at is not None and now - job.ended_at > config.result_s
                if expired or now - job.submitted_at > job.ttl_s:
                    self.forget(job)
                elif job.status == RUNNING and not job.overwritten:
                    if now - (job.started_at or now) > job.execution_timeout_s:
                        self._end(job, TIMED_OUT, "execution timeout exceeded")
                    elif now - job.heard_at > config.lost_after_s:
                        self._lose(job)

    # ---- called with `changed` held

    def _wait_for(self, there: Callable[[], bool], wait_s: float, may: Callable[[], bool]) -> bool:
        """Whether the worker may have what it waits for, as soon as that is there, or after `wait_s`."""
        self.changed.wait_for(lambda: not may() or there(), wait_s)
        return may() and there()

    def _held(self, worker_id: str, job_id: str) -> Job | None:
        job = self._jobs.get(job_id)
        return job if job and job.status == RUNNING and job.worker_id == worker_id else None

    def _lose(self, job: Job) -> None:
        limit = self._config().max_retries
        if job.retries < limit:
            job.output = None
            self._requeue(job)
        else:
            self._end(job, FAILED, f"job timed out after {limit} retries")

    def _requeue(self, job: Job) -> None:
        job.retries += 1
        self.totals["retried"] += 1
        job.worker_id = job.started_at = None
        self._wait_in_line(job)

    def _wait_in_line(self, job: Job) -> None:
        job.status = QUEUED
        self._waiting.append(job)
        self.changed.notify_all()

    def _end(self, job: Job, status: str, error: str | None = None) -> None:
        if job.status == RUNNING and job.worker_id and status in {CANCELLED, TIMED_OUT}:
            self._stops.setdefault(job.worker_id, []).append(job.id)
        if job in self._waiting:
            self._waiting.remove(job)
        job.status, job.ended_at, job.error = status, self._now(), error or job.error
        if status == COMPLETED:
            self.totals["completed"] += 1
        elif status != CANCELLED:
            self.totals["failed"] += 1
        self.changed.notify_all()

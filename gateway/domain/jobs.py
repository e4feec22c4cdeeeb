"""Jobs and attempts: what they are, their states, and every legal change, as functions without side effects.

A change takes frozen records and answers new ones; `store.py` writes them in one transaction. Times are in ms UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# How long after its time-out an attempt may still upload and report.
MARGIN_MS = 120_000


class JobStatus(StrEnum):
    """Of a job. Clients see these words and never any other."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

JOB_CHANGES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, *FINISHED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, *FINISHED}),
    **{status: frozenset() for status in FINISHED},
}


@dataclass(frozen=True)
class Job:
    """One request of a client. `tries` counts the attempts that may have run, `attempt_id` is the newest one.

    `cost_nano`, in nano-dollars, is that of all attempts; None where no machine had to be paid for.
    """

    id: str
    key_id: str
    operation: str
    status: JobStatus
    created_at: int
    queued_at: int
    timeout_s: int
    queue_limit_s: int
    request_id: str | None = None
    webhook_url: str | None = None
    progress: float = 0.0
    started_at: int | None = None
    finished_at: int | None = None
    tries: int = 0
    waits: int = 0
    waiting_for: str | None = None
    attempt_id: str | None = None
    output_key: str | None = None
    stats: Mapping[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    cost_nano: int | None = None
    next_at: int | None = None
    lease_token: str | None = None
    lease_expires_at: int | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    def output_expires_at(self, kept_s: int) -> int | None:
        """Until when the output of a completed job is there, if outputs are kept for `kept_s`."""
        if self.status is not JobStatus.COMPLETED or self.finished_at is None:
            return None
        return self.finished_at + kept_s * 1000

    @property
    def queue_deadline(self) -> int:
        return self.queued_at + self.queue_limit_s * 1000

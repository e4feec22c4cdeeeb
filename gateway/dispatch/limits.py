"""Time limits of attempts, and the errors for exceeding them. Times in ms UTC; no side effects."""

from __future__ import annotations

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import MARGIN_MS, Job
from wire.envelope import SILENCE_S
from wire.errors import ClaimTimeout, JobError, JobTimeout, QueueTimeout, SubmitUnconfirmed, WorkerLost

SILENCE_MS = SILENCE_S * 1000
# How long it may be unknown whether a submit took effect; after that, a worker's claim is refused.
AMBIGUOUS_MS = 60_000
# How long an attempt may run at a provider without a claim: a worker that is shutting down may take a job and drop it.
UNCLAIMED_MS = 60_000


def overdue(job: Job, attempt: Attempt, now: int, *, events: bool, listening_since: int) -> JobError | None:
    """Return why the attempt is out of time, or None. Callers ignore it if the attempt has ended at its provider.

    `events`: whether workers report. `listening_since`: since when they have been able to; earlier silence is ignored.
    """
    if attempt.claimed_at is not None:
        if now - max(attempt.heard_at or 0, listening_since) > SILENCE_MS:
            return WorkerLost()
    elif attempt.state is AttemptState.AMBIGUOUS and now - (attempt.sent_at or attempt.created_at) > AMBIGUOUS_MS:
        return SubmitUnconfirmed()
    elif events and now - (attempt.running_at or now) > UNCLAIMED_MS:
        return ClaimTimeout()
    began = attempt.claimed_at or attempt.running_at
    return JobTimeout() if began is not None and now > must_end_by(job, attempt) else None


def must_end_by(job: Job, attempt: Attempt) -> int:
    """Return by when the attempt must have ended, upload included."""
    began_at = attempt.claimed_at or attempt.running_at or attempt.deadline
    return min(attempt.deadline, began_at + job.timeout_s * 1000 + MARGIN_MS)


def queue_timeout(job: Job, reason: str | None = None) -> QueueTimeout:
    """The error of a job that no worker took in time; `reason` is the last one known for its wait."""
    reason = reason or job.waiting_for
    why = f" The last reason: {reason}." if reason else ""
    return QueueTimeout(f"No worker took the job within {job.queue_limit_s} s.{why}")

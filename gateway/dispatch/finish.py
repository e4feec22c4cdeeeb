"""End jobs that are out of time, and attempts that are abandoned or no longer wanted."""

from __future__ import annotations

from dataclasses import replace

from gateway.dispatch.attempt_writer import Change, Ending, Update, on_attempt, unchanged
from gateway.dispatch.context import Look
from gateway.domain import transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from wire.errors import JobError, Stopped, WorkerLost

# Delay until the next step: if the provider cannot be reached, and if the attempt is claimed.
LATER_MS = 5_000
POLL_CLAIMED_MS = 10_000


def end_job(look: Look, error: JobError, *, charged: bool = True) -> Update:
    """Fail the job, unless a worker has claimed its attempt in the meantime and has time left."""

    def change(job: Job, attempt: Attempt | None) -> tuple[Job, Attempt | None]:
        now = look.now
        if attempt is not None and attempt.state is AttemptState.CLAIMED and now <= attempt.deadline:
            return job, attempt
        attempt = transitions.supersede(attempt, now) if attempt else None
        return replace(job, next_at=None) if job.finished else transitions.give_up(job, error, now), attempt

    return Update(look.newest_attempt, change, ending=Ending(charged=charged))


def withdraw(look: Look, attempt: Attempt, error: JobError) -> Update:
    """Cancel the attempt at its provider, and fail it with `error`."""
    look.cancel_at_provider(attempt)
    return Update(attempt, fail_unless_claimed(attempt, error, look.now))


def clean_up(look: Look, attempt: Attempt | None) -> Update:
    """Cancel the last attempt of a job that has ended, if it may still run."""
    may_run = attempt is not None and not attempt.ended and attempt.sent_at is not None
    if attempt and may_run and not look.cancel_at_provider(attempt) and look.now < attempt.deadline:
        return Update(attempt, unchanged, next_in_ms=LATER_MS)

    def change(job: Job, attempt: Attempt | None) -> tuple[Job, Attempt | None]:
        return replace(job, next_at=None), transitions.supersede(attempt, look.now) if attempt else None

    return Update(attempt, change, frees_worker=True)


def fail_unless_claimed(polled: Attempt, error: JobError, now: int) -> Change:
    """Return the change for an attempt that failed at its provider. `polled`: the attempt as it was before the poll."""

    def change(job: Job, attempt: Attempt) -> transitions.Pair:
        claimed_since = attempt.claim_id != polled.claim_id
        if claimed_since or (isinstance(error, Stopped) and attempt.state is AttemptState.CLAIMED):
            # The worker of the claim may be alive. If it is not, its silence will end the attempt.
            return replace(job, next_at=now + POLL_CLAIMED_MS), attempt
        return transitions.fail(job, attempt, WorkerLost() if isinstance(error, Stopped) else error, now)

    return on_attempt(change)

"""Every legal change of a job and its attempt, as functions without side effects."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.domain.attempts import ATTEMPT_CHANGES, Attempt, AttemptState, IllegalChange
from gateway.domain.jobs import JOB_CHANGES, Job, JobStatus
from gateway.errors import AttemptSuperseded, JobFinished
from wire.errors import EncoderUnavailable, JobError, JobFault, WorkerLost

MAX_TRIES = 3
# Attempts that may end without an encoder before they count as tries, and before the CPU may encode.
MAX_ENCODER_REFUSALS = 2
RETRY_AFTER_MS = (1_000, 5_000)


Pair = tuple[Job, Attempt]


def claim(job: Job, attempt: Attempt, claim_id: str, now: int) -> Pair:
    """Record a worker's claim. A repetition of the same claim changes nothing; any other raises AttemptSuperseded."""
    if attempt.claim_id == claim_id and _wanted(job, attempt):
        return job, attempt
    if attempt.claim_id is not None or not _wanted(job, attempt):
        raise AttemptSuperseded
    job = _counted(job, attempt)
    attempt = _move(attempt, AttemptState.CLAIMED, claim_id=claim_id, claimed_at=now, heard_at=now)
    return _change(job, JobStatus.RUNNING, started_at=job.started_at or now, waiting_for=None, waits=0), attempt


def beat(job: Job, attempt: Attempt, claim_id: str, progress: float, now: int) -> Pair:
    """Record that the claim's worker is alive, and its progress, which never goes back. Raises AttemptSuperseded."""
    _must_hold(job, attempt, claim_id)
    return replace(job, progress=max(job.progress, progress)), replace(attempt, heard_at=now)


def held(job: Job, attempt: Attempt, claim_id: str, end: AttemptState) -> bool:
    """Whether the claim may end the attempt; False when it already ended as `end`. Raises AttemptSuperseded."""
    if attempt.state is end and attempt.claim_id == claim_id and job.attempt_id == attempt.id:
        return False
    _must_hold(job, attempt, claim_id)
    return True


def accept(job: Job, attempt: Attempt, remote_id: str | None, now: int) -> Pair:
    """Record that the provider has accepted the attempt. An earlier claim is kept."""
    if attempt.state is AttemptState.CLAIMED:
        return job, replace(attempt, remote_id=remote_id)
    if attempt.state is AttemptState.SUBMITTED:
        return job, attempt
    job = replace(_counted(job, attempt), waiting_for=None, waits=0)
    return job, _move(attempt, AttemptState.SUBMITTED, remote_id=remote_id)


def waits(job: Job, attempt: Attempt, reason: str | None) -> Pair:
    """Record that the provider has not begun it, and why if that is known."""
    return (replace(job, waiting_for=reason) if job.status is JobStatus.QUEUED else job), attempt


def runs(job: Job, attempt: Attempt, progress: float, now: int) -> Pair:
    """Record that the provider reports it as running. Without events, this alone makes a job running."""
    if job.finished:
        return job, attempt
    attempt = replace(attempt, running_at=attempt.running_at or now)
    job, progress = replace(job, waiting_for=None), max(job.progress, progress)
    return _change(job, JobStatus.RUNNING, started_at=job.started_at or now, progress=progress), attempt


def doubt(job: Job, attempt: Attempt) -> Pair:
    """Record that it is unknown whether the submit took effect."""
    if attempt.state is not AttemptState.INTENT:
        return job, attempt
    return _counted(job, attempt), _move(attempt, AttemptState.AMBIGUOUS)


def not_yet(job: Job, attempt: Attempt, reason: str) -> Pair:
    """Record that the provider definitely did not accept it: the same attempt may be submitted again."""
    if attempt.state is not AttemptState.INTENT:
        return job, attempt
    return replace(job, waits=job.waits + 1, waiting_for=reason), replace(attempt, sent_at=None)


def complete(job: Job, attempt: Attempt, result: Mapping[str, Any], now: int) -> Pair:
    """Complete the attempt and its job; the outputs are stored and checked. `result` is a ResultSchema document."""
    attempt = _move(attempt, AttemptState.DONE, ended_at=now, gpu_failure=result["stats"].get("gpu_failure"))
    stats = {**result["stats"], "provider": attempt.provider}
    outputs = {
        name: replace(output, key=attempt.output_key(name, output), size_bytes=result["outputs"][name]["size_bytes"])
        for name, output in job.outputs.items()
    }
    job = replace(job, started_at=job.started_at or now)  # a short job may end before it was seen to run
    made = {"outputs": outputs, "stats": stats, "result": result.get("result")}
    job = _finish(job, JobStatus.COMPLETED, now, progress=1.0, **made)
    return job, attempt


def fail(job: Job, attempt: Attempt, error: JobError, now: int) -> Pair:
    """Fail the attempt. Its job fails with it, or goes back to the queue if another try may help."""
    attempt = _move(attempt, AttemptState.FAILED, ended_at=now, error_code=error.code, error_message=error.message)
    if isinstance(error, EncoderUnavailable) and job.encoder_refusals < MAX_ENCODER_REFUSALS:
        job = replace(job, tries=max(0, job.tries - 1), encoder_refusals=job.encoder_refusals + 1)
    if isinstance(error, JobFault) or job.tries >= MAX_TRIES:
        return _finish(job, JobStatus.FAILED, now, error_code=error.code, error_message=error.message), attempt
    pause_ms = RETRY_AFTER_MS[min(max(1, job.tries), len(RETRY_AFTER_MS)) - 1] * random.uniform(0.8, 1.2)
    return _requeue(job, now, now + round(pause_ms), error.message), attempt


def turn_down(job: Job, attempt: Attempt, code: str, reason: str, now: int, next_at: int) -> Pair:
    """End an attempt that its provider did not and cannot run: the job is queued again, and the try does not count."""
    if attempt.state is AttemptState.CLAIMED:
        return replace(job, next_at=next_at), attempt
    if attempt.running_at is not None:  # it was reported as running before
        return fail(job, attempt, WorkerLost(reason), now)
    if attempt.state is not AttemptState.INTENT:
        job = replace(job, tries=job.tries - 1)
    attempt = _move(attempt, AttemptState.FAILED, ended_at=now, error_code=code, error_message=reason)
    next_at = min(next_at, job.queue_deadline)
    return replace(_requeue(job, now, next_at, reason), queued_at=job.queued_at, waits=job.waits + 1), attempt


def charge(job: Job, attempt: Attempt, nano_per_s: int, execution_ms: int | None = None, extra_nano: int = 0) -> Pair:
    """Add the cost of an ended attempt: `extra_nano`, and the time `execution_ms`, by default from claim to end."""
    ended_at = attempt.ended_at or 0
    began_at = attempt.claimed_at or attempt.running_at or ended_at
    cost = nano_per_s * (max(0, ended_at - began_at) if execution_ms is None else execution_ms) // 1000 + extra_nano
    return replace(job, cost_nano=(job.cost_nano or 0) + cost), replace(attempt, cost_nano=cost)


def give_up(job: Job, error: JobError, now: int) -> Job:
    """Fail the job with an error that no attempt caused."""
    return _finish(job, JobStatus.FAILED, now, error_code=error.code, error_message=error.message)


def cancel(job: Job, now: int) -> Job:
    """Cancel the job for its client; the dispatcher cancels its attempt. Raises JobFinished."""
    if job.status is JobStatus.CANCELLED:
        return job
    if job.finished:
        raise JobFinished(f"The job has already ended: it is {job.status}.")
    return replace(_finish(job, JobStatus.CANCELLED, now), next_at=now)


def supersede(attempt: Attempt, now: int) -> Attempt:
    """End an attempt whose job ended without it."""
    return attempt if attempt.ended else _move(attempt, AttemptState.SUPERSEDED, ended_at=now)


def _wanted(job: Job, attempt: Attempt) -> bool:
    return job.attempt_id == attempt.id and not job.finished and not attempt.ended


def _must_hold(job: Job, attempt: Attempt, claim_id: str) -> None:
    if attempt.claim_id != claim_id or not _wanted(job, attempt):
        raise AttemptSuperseded


def _counted(job: Job, attempt: Attempt) -> Job:
    """Count the try: from here on the attempt may have run."""
    return replace(job, tries=job.tries + 1) if attempt.state is AttemptState.INTENT else job


def _requeue(job: Job, now: int, next_at: int, reason: str) -> Job:
    job = job if job.status is JobStatus.QUEUED else _change(job, JobStatus.QUEUED)
    return _released(replace(job, queued_at=now, progress=0.0, waits=0, waiting_for=reason), next_at)


def _finish(job: Job, status: JobStatus, now: int, **changes: Any) -> Job:
    return _released(_change(job, status, finished_at=now, waiting_for=None, **changes), None)


def _released(job: Job, next_at: int | None) -> Job:
    return replace(job, next_at=next_at, lease_token=None, lease_expires_at=None)


def _change(job: Job, status: JobStatus, **changes: Any) -> Job:
    if job.finished or (status is not job.status and status not in JOB_CHANGES[job.status]):
        raise IllegalChange(f"job {job.id}: {job.status} → {status}")
    return replace(job, status=status, **changes)


def _move(attempt: Attempt, state: AttemptState, **changes: Any) -> Attempt:
    if state not in ATTEMPT_CHANGES[attempt.state]:
        raise IllegalChange(f"attempt {attempt.id}: {attempt.state} → {state}")
    return replace(attempt, state=state, **changes)

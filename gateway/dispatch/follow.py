"""Follow an attempt that its provider has, or may have: poll it and record the outcome."""

from __future__ import annotations

from functools import partial
from typing import assert_never

import structlog

from gateway.dispatch import fallback, finish, limits, poll_schedule
from gateway.dispatch.attempt_writer import Ending, Update, on_attempt, unchanged
from gateway.dispatch.context import Look
from gateway.dispatch.finish import fail_unless_claimed, withdraw
from gateway.dispatch.output_check import check_outputs
from gateway.dispatch.submit import too_long, turned_down, until_first_poll_ms
from gateway.domain import transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.providers.base import NoCapacity, Phase, Remote, Unavailable
from gateway.storage import StorageUnavailable
from wire.errors import (
    ClaimTimeout,
    JobError,
    JobTimeout,
    ProviderUnreachable,
    Stopped,
    StorageUnreachable,
    WorkerError,
    WorkerLost,
)

log = structlog.get_logger(__name__)


def follow(look: Look, attempt: Attempt) -> Update:
    """Poll the attempt, and judge it by its time limits."""
    events = look.context.settings.worker_events
    overdue = limits.overdue(look.job, attempt, look.now, events=events, listening_since=look.listening_since)
    try:
        remote = _poll(look, attempt)
    except (NoCapacity, Unavailable) as error:
        return _poll_failed(look, attempt, error, overdue)
    return _polled(look, attempt, remote, overdue)


def _poll(look: Look, attempt: Attempt) -> Remote:
    """Poll the provider. Raises NoCapacity or Unavailable, also for bugs in it: the job must still end."""
    try:
        return look.provider(attempt).poll(attempt)
    except (NoCapacity, Unavailable):
        raise
    except Exception as error:
        log.exception("provider.poll_failed", provider=attempt.provider)
        raise Unavailable(f"the poll failed: {type(error).__name__}") from error


def _poll_failed(look: Look, attempt: Attempt, error: NoCapacity | Unavailable, overdue: JobError | None) -> Update:
    if overdue is None and attempt.claimed_at is None:
        if isinstance(error, NoCapacity):
            return turned_down(look, attempt, error)
        if _may_be_abandoned(look, attempt):
            return turned_down(look, attempt, NoCapacity(f"an attempt in its queue cannot be followed: {error}"))
    log.warning("provider.unavailable", provider=attempt.provider, reason=str(error))
    if overdue is None and look.now > limits.must_end_by(look.job, attempt):
        overdue = ProviderUnreachable()
    if overdue is not None:
        return withdraw(look, attempt, overdue)
    return Update(attempt, unchanged, next_in_ms=finish.LATER_MS)


def _may_be_abandoned(look: Look, attempt: Attempt) -> bool:
    """Whether the next provider may be tried without cancelling here: a late claim would be refused."""
    unbegun = attempt.remote_id is not None and attempt.running_at is None and look.context.settings.worker_events
    return unbegun and fallback.waited_too_long(look.context.providers, attempt, look.now, factor=2)


def _polled(look: Look, attempt: Attempt, remote: Remote, overdue: JobError | None) -> Update:
    """Judge a polled attempt. One that has ended is not withdrawn: its result counts even after a long outage."""
    ended = remote.phase is Phase.COMPLETED or (remote.phase is Phase.FAILED and not isinstance(remote.error, Stopped))
    if overdue is not None and not ended:
        return withdraw(look, attempt, overdue)
    now = look.now
    match remote.phase:
        case Phase.COMPLETED:
            return _completed(look, attempt, remote, now)
        case Phase.FAILED:
            error = remote.error or WorkerError()
            events = look.context.settings.worker_events
            if isinstance(error, JobTimeout) and attempt.claimed_at is None and events:
                error = ClaimTimeout()
            return Update(attempt, fail_unless_claimed(attempt, error, now), ending=_ending(remote))
        case Phase.GONE:
            gone = WorkerLost("The worker no longer knows the attempt.")
            return Update(attempt, fail_unless_claimed(attempt, gone, now))
        case Phase.WAITING if attempt.claimed_at is None and now >= look.job.queue_deadline:
            return withdraw(look, attempt, limits.queue_timeout(look.job, remote.reason))
        case Phase.WAITING if _should_ask_next(look, attempt, now) and look.cancel_at_provider(attempt):
            return turned_down(look, attempt, too_long(look, attempt, remote.reason))
        case Phase.WAITING | Phase.RUNNING:
            change = on_attempt(partial(_unfinished, remote=remote, now=now))
            return Update(attempt, change, next_in_ms=_until_next_poll_ms(look, attempt))
        case _:
            assert_never(remote.phase)


def _should_ask_next(look: Look, attempt: Attempt, now: int) -> bool:
    """Whether an attempt that waits in its provider's queue has waited there long enough."""
    waits = attempt.remote_id is not None and attempt.claimed_at is None
    return waits and fallback.waited_too_long(look.context.providers, attempt, now)


def _completed(look: Look, attempt: Attempt, remote: Remote, now: int) -> Update:
    result = remote.result or {"outputs": {}, "stats": {}}
    try:
        context = look.context
        error = check_outputs(context.storage, look.job, attempt, result, context.settings.max_output_bytes)
    except StorageUnavailable as unavailable:
        log.warning("storage.unavailable", reason=str(unavailable))
        if now <= limits.must_end_by(look.job, attempt):
            return Update(attempt, unchanged, next_in_ms=finish.LATER_MS)
        error = StorageUnreachable()
    completed = on_attempt(partial(transitions.complete, result=result, now=now))
    return Update(attempt, fail_unless_claimed(attempt, error, now) if error else completed, ending=_ending(remote))


def _ending(remote: Remote) -> Ending:
    return Ending(remote.result["stats"] if remote.result else None, remote.execution_ms, remote.took_ms)


def _until_next_poll_ms(look: Look, attempt: Attempt) -> int:
    if attempt.heard_at is None:
        return until_first_poll_ms(look, attempt)
    now = look.now
    pause = min(finish.POLL_CLAIMED_MS, max(poll_schedule.FIRST_MS, attempt.heard_at + limits.SILENCE_MS + 1 - now))
    return look.context.poll_scheduler.spread_ms(now, pause)


def _unfinished(job: Job, attempt: Attempt, remote: Remote, now: int) -> transitions.Pair:
    if remote.phase is Phase.WAITING and attempt.state is AttemptState.AMBIGUOUS and attempt.remote_id is None:
        return transitions.waits(job, attempt, remote.reason)  # unknown there: the submit stays unconfirmed
    job, attempt = transitions.accept(job, attempt, attempt.remote_id, now)
    if remote.phase is Phase.RUNNING:
        return transitions.runs(job, attempt, remote.progress or 0.0, now)
    return transitions.waits(job, attempt, remote.reason)

"""Submit an attempt to its provider, and record the response."""

from __future__ import annotations

import random
from dataclasses import replace

import structlog

from gateway.dispatch import fallback
from gateway.dispatch.attempt_writer import Update, on_attempt
from gateway.dispatch.context import Look
from gateway.dispatch.delivery import job_input
from gateway.domain import transitions
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import JobStatus
from gateway.providers.base import (
    Accepted,
    Ambiguous,
    NoCapacity,
    NotYet,
    ProviderError,
    Refused,
    Unavailable,
)

log = structlog.get_logger(__name__)

# Maximum pause before a waiting attempt is submitted again, and before a provider that failed is tried again.
MAX_WAIT_MS = 10_000
MAX_BACKOFF_MS = 60_000


def submit(look: Look, attempt: Attempt, params: str) -> Update:
    """Hand the attempt and the job's params to its provider."""
    structlog.contextvars.bind_contextvars(attempt_id=attempt.id)
    try:
        response = look.provider(attempt).submit(attempt, job_input(look.context, look.job, attempt, params))
    except Refused as error:
        fault = error.fault
        return Update(attempt, on_attempt(lambda j, a: transitions.fail(j, a, fault, look.now)))
    except (NoCapacity, Unavailable) as error:
        return turned_down(look, attempt, error)
    except Ambiguous as error:
        log.warning("attempt.submit_unconfirmed", provider=attempt.provider, reason=str(error))
        return Update(attempt, on_attempt(transitions.doubt), next_in_ms=until_first_poll_ms(look, attempt))
    return _accepted(look, attempt, response) if isinstance(response, Accepted) else _not_yet(look, attempt, response)


def turned_down(look: Look, attempt: Attempt, error: ProviderError) -> Update:
    """Give the job to the next provider: at once, or after a pause if this was the last one."""
    log.warning("attempt.turned_down", provider=attempt.provider, code=error.code, reason=str(error))
    now = look.now
    next_at = now
    if attempt.provider == list(look.context.providers)[-1]:
        known_s = error.retry_in_s if isinstance(error, Unavailable) else None
        # Less the time that the attempt has already waited.
        pause = max(0, _backoff_ms(1000, look.job.waits, MAX_BACKOFF_MS) - (now - attempt.created_at))
        next_at += round(pause if known_s is None else known_s * 1000 * random.uniform(1.0, 1.2))
    return Update(attempt, on_attempt(lambda j, a: transitions.turn_down(j, a, error.code, str(error), now, next_at)))


def until_first_poll_ms(look: Look, attempt: Attempt) -> int:
    """Return the pause before the next poll of an attempt that no worker has claimed."""
    events = look.context.settings.worker_events
    return look.context.poll_scheduler.pause_ms(attempt, look.job.operation, look.now, events=events)


def _accepted(look: Look, attempt: Attempt, response: Accepted) -> Update:
    log.info("attempt.submitted", provider=attempt.provider, remote_id=response.remote_id)
    now = look.now
    return Update(
        attempt,
        on_attempt(lambda j, a: transitions.accept(j, a, response.remote_id, now)),
        next_in_ms=until_first_poll_ms(look, attempt),
        frees_worker=True,  # the provider may have room for another job
        accepted_as=response.remote_id,
    )


def _not_yet(look: Look, attempt: Attempt, response: NotYet) -> Update:
    providers, now = look.context.providers, look.now
    if not response.coming and fallback.waited_too_long(providers, attempt, now):
        return turned_down(look, attempt, too_long(look, attempt, response.reason))
    log.info("attempt.deferred", provider=attempt.provider, reason=response.reason)
    pause = _backoff_ms(response.retry_in_s * 1000, look.job.waits, MAX_WAIT_MS)
    pause = min(pause, max(0, look.job.queue_deadline - now))
    return Update(attempt, on_attempt(lambda j, a: transitions.not_yet(j, a, response.reason)), next_in_ms=pause)


def too_long(look: Look, attempt: Attempt, reason: str | None) -> NoCapacity:
    """Return the error of an attempt that exceeded its provider's queue limit."""
    limit_s = fallback.queue_limit_s(look.context.providers, attempt)
    why = reason or "no reason is known"
    return NoCapacity(f"no worker of {attempt.provider} took the job within {limit_s} s: {why}")


def accepted_late(look: Look, attempt: Attempt) -> None:
    """Save the provider's id although the lease is lost; cancel the attempt if it is no longer wanted."""
    with look.context.store.transaction() as tx:
        job, fresh = tx.job(attempt.job_id), tx.attempt(attempt.id)
        if job is None or fresh is None:
            return
        if fresh.remote_id is None:
            tx.save_attempt(replace(fresh, remote_id=attempt.remote_id))
    if job.status is JobStatus.CANCELLED or job.attempt_id != attempt.id:
        look.cancel_at_provider(attempt)


def _backoff_ms(first_ms: float, waits: int, max_ms: float) -> float:
    return min(max_ms, first_ms * 1.5 ** min(waits, 20)) * random.uniform(0.8, 1.2)

"""Begin an attempt: commit the intent, then submit it; or end a job that may not begin another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gateway.db.transaction import Transaction
from gateway.dispatch import fallback, limits
from gateway.dispatch.attempt_writer import Update, unchanged
from gateway.dispatch.context import Look
from gateway.dispatch.finish import end_job
from gateway.dispatch.submit import submit
from gateway.domain import ids
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import MARGIN_MS
from wire.errors import BudgetExhausted, JobError


def begin(look: Look, previous: Attempt | None) -> Update:
    """Commit a new attempt at the provider that follows `previous`, and submit it."""
    now, job = look.now, look.job
    if (error := _reason_not_to_begin(look, now)) is not None:
        return end_job(look, error)
    attempt = Attempt(
        id=ids.new("att", now),
        job_id=job.id,
        provider=fallback.next_provider(list(look.context.providers), previous),
        state=AttemptState.INTENT,
        created_at=now,
        sent_at=now,
        deadline=job.queue_deadline + job.timeout_s * 1000 + MARGIN_MS,
    )
    params = look.context.store.together(partial(_add, look, attempt))
    return submit(look, attempt, params)


def send_again(look: Look, attempt: Attempt) -> Update:
    """Submit again an attempt that its provider has definitely not accepted."""
    now = look.now
    if (error := _reason_not_to_begin(look, now)) is not None:
        return end_job(look, error)
    with look.context.store.transaction() as tx:
        job, fresh = tx.leased_job(look.job.id, look.token), tx.attempt(attempt.id)
        if job.finished or fresh is None or fresh.state is not AttemptState.INTENT:
            # Cancelled meanwhile, or claimed: an earlier submit took effect after all.
            return Update(fresh, unchanged, next_in_ms=0)
        attempt = replace(fresh, sent_at=now)
        tx.save_attempt(attempt)
        params = tx.params(look.job.id)
    return submit(look, attempt, params)


def _add(look: Look, attempt: Attempt, tx: Transaction) -> str:
    tx.begin_attempt(attempt, look.token)
    return tx.params(attempt.job_id)


def _reason_not_to_begin(look: Look, now: int) -> JobError | None:
    """Return an error if the job has waited too long, or if its key has reached its spending limit."""
    if now >= look.job.queue_deadline:
        return limits.queue_timeout(look.job)
    return BudgetExhausted() if look.context.quotas.day_is_spent(look.job.key_id, now) else None

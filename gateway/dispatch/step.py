"""One step for a leased job: begin an attempt, submit it again, follow it, or clean up after it."""

from __future__ import annotations

from dataclasses import replace

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.db.transaction import StaleLease
from gateway.dispatch.attempt_writer import Update, on_attempt
from gateway.dispatch.begin import begin, send_again
from gateway.dispatch.context import Look
from gateway.dispatch.finish import clean_up, end_job
from gateway.dispatch.follow import follow
from gateway.dispatch.submit import accepted_late
from gateway.domain import transitions
from gateway.domain.attempts import AttemptState
from wire.errors import GatewayError

log = structlog.get_logger(__name__)

# Exceptions that may end a step without being a bug.
EXPECTED = (StaleLease, OperationalError, PoolTimeout)


def step(look: Look) -> None:
    """Do what the job needs now, and write the update."""
    update = _update(look)
    try:
        look.write(update)
    except StaleLease:
        if update.attempt is not None and update.accepted_as is not None:
            accepted_late(look, replace(update.attempt, remote_id=update.accepted_as))
        raise


def _update(look: Look) -> Update:
    attempt = look.newest_attempt
    if look.job.finished:
        return clean_up(look, attempt)
    if attempt is None or attempt.ended:
        return begin(look, attempt)
    if attempt.state is AttemptState.INTENT and attempt.sent_at is None:
        return send_again(look, attempt)
    if attempt.state is AttemptState.INTENT:
        # A dispatcher died between the submit and the record of its outcome.
        return Update(attempt, on_attempt(transitions.doubt), next_in_ms=0)
    return follow(look, attempt)


def fail_if_overdue(look: Look) -> None:
    """After a bug in a step, fail the job if its time is up. Otherwise the step is repeated when the lease expires."""
    attempt = look.newest_attempt
    ends_at = look.job.queue_deadline if attempt is None or attempt.ended else attempt.deadline
    if look.now <= ends_at:
        return
    try:
        look.write(end_job(look, GatewayError()))
    except EXPECTED:
        raise
    except Exception:
        log.exception("job.charge_failed")  # the bug is in the charging code
        look.write(end_job(look, GatewayError(), charged=False))

"""One look at one leased job: begin an attempt, submit it again, follow it, or clean up behind it."""

from __future__ import annotations

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gateway.db.transaction import StaleLease
from gateway.dispatch.attempt_writer import on_attempt
from gateway.dispatch.begin import begin, send_again
from gateway.dispatch.context import Look
from gateway.dispatch.finish import clean_up, end_job
from gateway.dispatch.follow import follow
from gateway.domain import transitions
from gateway.domain.attempts import AttemptState
from wire.errors import GatewayError

log = structlog.get_logger(__name__)

# What ends a step without being a bug.
EXPECTED = (StaleLease, OperationalError, PoolTimeout)


def step(look: Look) -> None:
    """Do what the job needs now."""
    attempt = look.newest_attempt
    if look.job.finished:
        clean_up(look, attempt)
    elif attempt is None or attempt.ended:
        begin(look, attempt)
    elif attempt.state is AttemptState.INTENT and attempt.sent_at is None:
        send_again(look, attempt)
    elif attempt.state is AttemptState.INTENT:
        # a dispatcher died between the submit and writing down its answer
        look.write(on_attempt(transitions.doubt), attempt, next_in_ms=0)
    else:
        follow(look, attempt)


def break_off(look: Look) -> None:
    """After a bug: the lease runs out and the job is looked at again, until its time is up; then it fails."""
    attempt = look.newest_attempt
    ends_at = look.job.queue_deadline if attempt is None or attempt.ended else attempt.deadline
    if look.now <= ends_at:
        return
    try:
        end_job(look, GatewayError())
    except EXPECTED:
        raise
    except Exception:
        log.exception("job.charge_failed")  # the bug is in what charges
        end_job(look, GatewayError(), charged=False)

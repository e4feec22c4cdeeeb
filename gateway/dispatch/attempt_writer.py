"""What the end of an attempt brings about, however it was found: by an event, by a look, or because we took it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from gateway.db.transaction import Transaction
from gateway.dispatch.costs import Costs
from gateway.dispatch.poll_schedule import PollScheduler
from gateway.domain import transitions
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.domain.prices import Price
from gateway.upkeep.metrics import Metrics

log = structlog.get_logger(__name__)


class Ends:
    """`price` comes before the transaction that writes the end, `charge` belongs into it, the rest after its commit."""

    def __init__(self, costs: Costs, poll_scheduler: PollScheduler, metrics: Metrics) -> None:
        self._costs, self._poll_scheduler, self._metrics = costs, poll_scheduler, metrics

    def price(self, attempt: Attempt, stats: Mapping[str, Any] | None = None) -> Price | None:
        """What the attempt's machine costs. It may read the database, and nobody may wait for a second connection while
        holding one.
        """
        return self._costs.price(attempt, stats)

    def charge(
        self, tx: Transaction, job: Job, attempt: Attempt, price: Price | None, execution_ms: int | None = None
    ) -> transitions.Pair:
        """Both with what the attempt cost (see Costs), which its key has spent from now on."""
        job, attempt = self._costs.charge(job, attempt, price, execution_ms)
        if attempt.cost_nano:
            tx.spend(job.key_id, attempt.cost_nano, attempt.ended_at or 0)
        return job, attempt

    def of_attempt(self, before: Job, job: Job, attempt: Attempt, took_ms: int | None = None) -> None:
        """The attempt has ended; `before` is the job as it was. `took_ms`: how long, by the provider's word."""
        log.info(
            "attempt.ended",
            job_id=job.id,
            attempt_id=attempt.id,
            provider=attempt.provider,
            attempt_state=str(attempt.state),
            job_status=str(job.status),
            tries=job.tries,
            code=attempt.error_code,
            reason=attempt.error_message,
        )
        self._poll_scheduler.learn(job, attempt, took_ms)
        self._metrics.attempt_ended(attempt)
        if job.finished and not before.finished:
            self._metrics.job_ended(job, attempt)

    def of_job(self, job: Job, attempt: Attempt | None) -> None:
        """The job has ended without its newest attempt."""
        log.info("job.ended", job_id=job.id, job_status=str(job.status), code=job.error_code)
        self._metrics.job_ended(job, attempt)

"""What the end of an attempt brings about, however it was found: by an event, by a look, or because we took it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from gateway import jobs
from gateway.costs import Costs, Price
from gateway.jobs import Attempt, Job
from gateway.metrics import Metrics
from gateway.pace import Pace
from gateway.store import Transaction

log = structlog.get_logger(__name__)


class Ends:
    """`price` comes before the transaction that writes the end, `charge` belongs into it, the rest after its commit."""

    def __init__(self, costs: Costs, pace: Pace, metrics: Metrics) -> None:
        self._costs, self._pace, self._metrics = costs, pace, metrics

    def price(self, attempt: Attempt, stats: Mapping[str, Any] | None = None) -> Price | None:
        """What the attempt's machine costs. It may read the database, and nobody may wait for a second connection while
        holding one.
        """
        return self._costs.price(attempt, stats)

    def charge(
        self, tx: Transaction, job: Job, attempt: Attempt, price: Price | None, execution_ms: int | None = None
    ) -> jobs.Pair:
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
        self._pace.learn(job, attempt, took_ms)
        self._metrics.attempt_ended(attempt)
        if job.finished and not before.finished:
            self._metrics.job_ended(job, attempt)

    def of_job(self, job: Job, attempt: Attempt | None) -> None:
        """The job has ended without its newest attempt."""
        log.info("job.ended", job_id=job.id, job_status=str(job.status), code=job.error_code)
        self._metrics.job_ended(job, attempt)

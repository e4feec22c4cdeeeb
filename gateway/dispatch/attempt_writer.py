"""The single place that records changes of an attempt, whether a worker's event, a poll or a client caused them.

Every write follows the same steps: price → change → charge → save → commit → log → metrics → notify.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from common.clock import Clock
from gateway.db import rental_store
from gateway.db.store import Store
from gateway.db.transaction import StaleLease, Transaction
from gateway.dispatch.notifier import ChangeNotifier
from gateway.dispatch.poll_schedule import PollScheduler
from gateway.domain import transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.domain.prices import USUAL_FETCHED_BYTES, USUAL_STORED_BYTES, Price, usd
from gateway.domain.rentals import rental_of
from gateway.providers.base import Provider
from gateway.upkeep.metrics import Metrics

log = structlog.get_logger(__name__)

# Maps the current job and attempt to their new records. Has no side effects and may be called more than once.
Change = Callable[[Job, Attempt | None], tuple[Job, Attempt | None]]


@dataclass(frozen=True)
class Ending:
    """Facts about the end of an attempt that its records do not hold."""

    #: The worker's statistics, which may name its GPU.
    stats: Mapping[str, Any] | None = None
    #: Execution time that the provider reports, in ms.
    execution_ms: int | None = None
    #: Time from submit to end that the provider reports, in ms.
    took_ms: int | None = None
    #: False to end the attempt without charging it, after the charging code has failed.
    charged: bool = True


@dataclass(frozen=True)
class Update:
    """What one write does: the outcome of a dispatcher's step, a worker's report, or a cancellation."""

    #: The attempt it is about; None for a job without one.
    attempt: Attempt | None
    #: Applied to the current records.
    change: Change
    #: Delay until the dispatcher's next step, in ms. None: the change sets it, and may end the attempt.
    next_in_ms: float | None = None
    #: Makes the job due that has waited longest. The end of an attempt that a worker may have had always does.
    frees_worker: bool = False
    #: None if the change cannot end the attempt; its price is then not looked up.
    ending: Ending | None = Ending()
    #: The provider's id of an attempt that it has just accepted.
    accepted_as: str | None = None


@dataclass(frozen=True)
class Written:
    """The records before and after one write."""

    #: The job before the write.
    job_before: Job
    #: Its newest attempt before the write; None if there was none.
    attempt_before: Attempt | None
    #: The job as it is now.
    job: Job
    #: Its newest attempt as it is now; None if there is none.
    attempt: Attempt | None

    @property
    def attempt_ended(self) -> bool:
        before = self.attempt_before
        return self.attempt is not None and self.attempt.ended and not (before and before.ended)

    @property
    def job_ended(self) -> bool:
        return self.job.finished and not self.job_before.finished


@dataclass(frozen=True)
class AttemptWriter:
    """Writes changes of jobs and their attempts. Safe to share between threads."""

    store: Store
    providers: Mapping[str, Provider]
    clock: Clock
    poll_scheduler: PollScheduler
    metrics: Metrics
    notifier: ChangeNotifier

    def write(self, job_id: str, update: Update, *, lease_token: str | None = None) -> Written:
        """Apply the update to the current job and attempt, commit, then log, count and announce an end.

        With a lease, write only while it is held, and release it. Raises StaleLease when the lease is lost or the job
        is gone, and what the change raises.
        """
        attempt, ending = update.attempt, update.ending if update.next_in_ms is None else None
        # Before the transaction: a price may be read from the database, and a thread may hold only one connection.
        price = self._price(attempt, ending) if attempt and ending and ending.charged else None

        def transact(tx: Transaction) -> Written:
            job = tx.leased_job(job_id, lease_token) if lease_token else tx.job(job_id)
            if job is None:
                raise StaleLease(job_id)
            fresh = tx.attempt(attempt.id) if attempt else None  # protected by the job's lock
            written = Written(job, fresh, *update.change(job, fresh))
            if written.attempt_ended and price is not None:
                written = _charge(tx, written, price, ending)
            if written.attempt is not None:
                tx.save_attempt(written.attempt)
            if written.job_ended:
                tx.forget_params(job_id)
            job = self._released(written.job, update.next_in_ms) if lease_token else written.job
            tx.save_job(job, lease_token)
            if update.frees_worker or (written.attempt_ended and fresh and fresh.state is not AttemptState.INTENT):
                tx.wake_next_waiting(self.clock.now_ms(), job.key_id)
            return written

        written = self.store.together(transact)
        self._follow_up(written, ending)
        return written

    def _price(self, attempt: Attempt, ending: Ending) -> Price | None:
        """Return the price of the machine that has the attempt; None if its provider is unknown or bills nothing."""
        provider = self.providers.get(attempt.provider)
        return provider.price(attempt, (ending.stats or {}).get("gpu")) if provider else None

    def _released(self, job: Job, next_in_ms: float | None) -> Job:
        next_at = job.next_at if next_in_ms is None else self.clock.now_ms() + round(next_in_ms)
        return replace(job, next_at=next_at, lease_token=None, lease_expires_at=None)

    def _follow_up(self, written: Written, ending: Ending | None) -> None:
        job, attempt = written.job, written.attempt
        if written.attempt_ended and attempt is not None:
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
            self.poll_scheduler.learn(job, attempt, ending.took_ms if ending else None)
            self.metrics.attempt_ended(attempt)
        if written.job_ended:
            log.info("job.ended", job_id=job.id, job_status=str(job.status), code=job.error_code)
            self.metrics.job_ended(job, attempt)
            self.notifier.on_end(job.id)
        if written.attempt_ended or written.job_ended:
            self.notifier.notify()


def on_attempt(change: Callable[[Job, Attempt], transitions.Pair]) -> Change:
    """Wrap `change` as a Change, for a job that has an attempt."""

    def with_attempt(job: Job, attempt: Attempt | None) -> transitions.Pair:
        assert attempt is not None
        return change(job, attempt)

    return with_attempt


def unchanged(job: Job, attempt: Attempt | None) -> tuple[Job, Attempt | None]:
    """Change nothing: writing this only releases the lease."""
    return job, attempt


def _charge(tx: Transaction, written: Written, price: Price, ending: Ending | None) -> Written:
    """Charge the attempt, and add its cost to what its key has spent, and that of its traffic to its rental's."""
    job, attempt = written.job, written.attempt
    assert attempt is not None
    execution_ms = ending.execution_ms if ending else None
    if not (attempt.state is AttemptState.DONE or attempt.claimed_at or attempt.running_at or execution_ms):
        return written  # no machine worked on it
    traffic_nano = price.traffic.nano(*_transferred(job, attempt, ending))
    job, attempt = transitions.charge(job, attempt, price.nano_per_s, execution_ms, traffic_nano + price.pull_nano)
    if traffic_nano:
        rental_store.add_traffic(tx, rental_of(attempt.remote_id), traffic_nano, attempt.ended_at or 0)
    if job.stats is not None:
        job = replace(job, stats={**job.stats, "idle_cost_usd": usd(price.nano_per_s * price.idle_s)})
    if attempt.cost_nano:
        tx.spend(job.key_id, attempt.cost_nano, attempt.ended_at or 0)
    return replace(written, job=job, attempt=attempt)


def _transferred(job: Job, attempt: Attempt, ending: Ending | None) -> tuple[int, int]:
    """Bytes that the attempt's worker fetched and stored; those of a usual job where it reported none."""
    fetched = (ending.stats or {}).get("fetched_bytes") if ending else None
    if attempt.state is not AttemptState.DONE or fetched is None:
        return USUAL_FETCHED_BYTES, USUAL_STORED_BYTES
    return fetched, sum(output.size_bytes or 0 for output in job.outputs.values())

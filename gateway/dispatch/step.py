"""One look at one leased job: begin, send, follow, take back. Ends with one write that gives the lease back."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, assert_never

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from common.clock import Clock
from gateway.access.quotas import Quotas
from gateway.db.store import Store
from gateway.db.transaction import StaleLease, Transaction
from gateway.dispatch.attempt_writer import Ends
from gateway.dispatch.notifier import ChangeNotifier
from gateway.dispatch.output_check import check_output
from gateway.dispatch.poll_schedule import FIRST_MS, PollScheduler
from gateway.domain import ids, jobs, transitions
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.providers.base import (
    Accepted,
    Ambiguous,
    NoCapacity,
    NotYet,
    Phase,
    Provider,
    ProviderError,
    Refused,
    Remote,
    Unavailable,
)
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.storage import Storage, StorageUnavailable
from wire.envelope import SILENCE_S, Delivery, DeliverySchema, EventTarget, Limits
from wire.errors import (
    BudgetExhausted,
    ClaimTimeout,
    EncoderUnavailable,
    GatewayError,
    JobError,
    JobTimeout,
    ProviderUnreachable,
    QueueTimeout,
    Stopped,
    StorageUnreachable,
    SubmitUnconfirmed,
    WorkerError,
    WorkerLost,
    WorkerOutdated,
)

log = structlog.get_logger(__name__)

SILENCE_MS = SILENCE_S * 1000
# How long nobody may know whether a submit took effect. A worker that takes it later is told to drop it.
AMBIGUOUS_MS = 60_000
# How long an attempt may run there without a claim: a worker that was told to end takes jobs and never runs them.
UNCLAIMED_MS = 60_000
POLL_CLAIMED_MS = 10_000
LATER_MS = 5_000
# Longest pause before a waiting attempt is offered again, and before a provider that failed is asked again.
MAX_WAIT_MS = 10_000
MAX_BACKOFF_MS = 60_000
EVENTS_PURPOSE = "events"

# Made once: to make one takes longer than to use it.
_DELIVERY = DeliverySchema()

# What ends a step without being a mistake of ours.
NO_BUGS = (StaleLease, OperationalError, PoolTimeout)
# Ends of an attempt after which the next provider in the chain is asked.
_NEXT_PROVIDER = frozenset({NoCapacity.code, Unavailable.code, WorkerOutdated.code, EncoderUnavailable.code})


@dataclass(frozen=True)
class DispatchContext:
    """What a step works with."""

    store: Store
    storage: Storage
    providers: Mapping[str, Provider]
    clock: Clock
    settings: Settings
    signer: Signer
    notifier: ChangeNotifier
    poll_scheduler: PollScheduler
    ends: Ends
    quotas: Quotas


class Step:
    """The look; `run` does it. `listening_since`: from when on workers could report, in ms UTC."""

    def __init__(self, context: DispatchContext, job: Job, token: str, listening_since: int) -> None:
        self._context, self._job, self._token, self._listening_since = context, job, token, listening_since
        self._store, self._clock = context.store, context.clock

    def run(self) -> None:
        job = self._job
        attempt = self._store.attempt(job.attempt_id) if job.attempt_id else None
        if job.finished:
            self._clean_up(attempt)
        elif attempt is None or attempt.ended:
            self._begin(attempt)
        elif attempt.state is AttemptState.INTENT and attempt.sent_at is None:
            self._send_again(attempt)
        elif attempt.state is AttemptState.INTENT:
            # somebody died between the submit and writing down its answer
            self._write(lambda j, a: transitions.doubt(j, a), attempt, next_in_ms=0)
        else:
            self._follow(attempt)

    def break_off(self) -> None:
        """After a bug of ours: the lease runs out and somebody looks again, but not when the job's time is up."""
        attempt = self._store.attempt(self._job.attempt_id) if self._job.attempt_id else None
        ends_at = self._job.queue_deadline if attempt is None or attempt.ended else attempt.deadline
        if self._clock.now_ms() > ends_at:
            try:
                self._end(GatewayError())
            except NO_BUGS:
                raise
            except Exception:
                log.exception("job.not_charged")  # the bug is in what charges
                self._end(GatewayError(), charged=False)

    def _begin(self, previous: Attempt | None) -> None:
        now = self._clock.now_ms()
        if self._must_not_begin(now):
            return
        attempt = Attempt(
            id=ids.new("att", now),
            job_id=self._job.id,
            provider=self._next_provider(previous),
            state=AttemptState.INTENT,
            created_at=now,
            sent_at=now,
            deadline=self._job.queue_deadline + self._job.timeout_s * 1000 + jobs.MARGIN_MS,
        )
        self._store.together(partial(self._add, attempt))
        self._submit(attempt)

    def _add(self, attempt: Attempt, tx: Transaction) -> None:
        job = tx.leased_job(self._job.id, self._token)
        tx.add_attempt(attempt)
        tx.save_job(replace(job, attempt_id=attempt.id), lease_token=self._token)

    def _send_again(self, attempt: Attempt) -> None:
        now = self._clock.now_ms()
        if self._must_not_begin(now):
            return
        with self._store.transaction() as tx:
            tx.leased_job(self._job.id, self._token)
            fresh = tx.attempt(attempt.id)
            if fresh is None or fresh.state is not AttemptState.INTENT:
                return  # claimed since: an earlier submit did take effect
            attempt = replace(fresh, sent_at=now)
            tx.save_attempt(attempt)
        self._submit(attempt)

    def _must_not_begin(self, now: int) -> bool:
        """Whether the job has waited too long, or its key has no money left; it fails then, unless a worker has it."""
        error = self._reason_not_to_begin(now)
        if error is None:
            return False
        self._end(error)
        return True

    def _end(self, error: JobError, *, charged: bool = True) -> None:
        """End the job without the word of anybody, unless a worker has claimed it since and has time left."""
        newest = self._store.attempt(self._job.attempt_id) if charged and self._job.attempt_id else None
        price = self._context.ends.price(newest) if newest is not None else None
        with self._store.transaction() as tx:
            now = self._clock.now_ms()
            before = tx.leased_job(self._job.id, self._token)
            attempt = tx.attempt(before.attempt_id) if before.attempt_id else None
            if attempt is not None and attempt.state is AttemptState.CLAIMED and now <= attempt.deadline:
                return
            job = before if before.finished else transitions.give_up(before, error, now)
            left = None if attempt is None or attempt.ended else attempt
            if left is not None:
                left = transitions.supersede(left, now)
                if charged:
                    job, left = self._context.ends.charge(tx, job, left, price)
                tx.save_attempt(left)
            self._release(tx, job, None)
        if left is not None:
            self._context.ends.of_attempt(job, job, left)
        if not before.finished:
            self._context.ends.of_job(job, left or attempt)
            self._context.notifier.notify()

    def _reason_not_to_begin(self, now: int) -> JobError | None:
        if now >= self._job.queue_deadline:
            return self._queue_timeout()
        return BudgetExhausted() if self._context.quotas.day_is_spent(self._job.key_id, now) else None

    def _queue_timeout(self, reason: str | None = None) -> QueueTimeout:
        reason = reason or self._job.waiting_for
        why = f" The last reason: {reason}." if reason else ""
        return QueueTimeout(f"No worker took the job within {self._job.queue_limit_s} s.{why}")

    def _submit(self, attempt: Attempt) -> None:
        structlog.contextvars.bind_contextvars(attempt_id=attempt.id)
        try:
            answer = self._provider(attempt).submit(attempt, self._job_input(attempt))
        except Refused as error:
            fault = error.fault
            self._write(lambda j, a: transitions.fail(j, a, fault, self._clock.now_ms()), attempt)
        except (NoCapacity, Unavailable) as error:
            self._turned_down(attempt, error)
        except Ambiguous as error:
            log.warning("attempt.ambiguous", provider=attempt.provider, reason=str(error))
            pause = self._pause_ms(attempt, self._clock.now_ms())
            self._write(lambda j, a: transitions.doubt(j, a), attempt, next_in_ms=pause)
        else:
            self._answered(attempt, answer)

    def _answered(self, attempt: Attempt, answer: Accepted | NotYet) -> None:
        if isinstance(answer, Accepted):
            log.info("attempt.submitted", provider=attempt.provider, remote_id=answer.remote_id)
            now = self._clock.now_ms()
            try:
                self._write(
                    lambda j, a: transitions.accept(j, a, answer.remote_id, now),
                    attempt,
                    next_in_ms=self._pause_ms(attempt, now),
                    wake=True,
                )
            except StaleLease:
                self._accepted_late(replace(attempt, remote_id=answer.remote_id))
                raise
            return
        log.info("attempt.not_yet", provider=attempt.provider, reason=answer.reason)
        pause = _pause_ms(answer.retry_in_s * 1000, self._job.waits, MAX_WAIT_MS)
        pause = min(pause, max(0, self._job.queue_deadline - self._clock.now_ms()))
        self._write(lambda j, a: transitions.not_yet(j, a, answer.reason), attempt, next_in_ms=pause)

    def _accepted_late(self, attempt: Attempt) -> None:
        """The lease is gone, and only here is the provider's id known: keep it, and take back what nobody wants."""
        with self._store.transaction() as tx:
            job, fresh = tx.job(attempt.job_id), tx.attempt(attempt.id)
            if job is None or fresh is None:
                return
            if fresh.remote_id is None:
                tx.save_attempt(replace(fresh, remote_id=attempt.remote_id))
        if job.status is jobs.JobStatus.CANCELLED or job.attempt_id != attempt.id:
            self._cancel_there(attempt)

    def _turned_down(self, attempt: Attempt, error: ProviderError) -> None:
        log.warning("attempt.turned_down", provider=attempt.provider, code=error.code, reason=str(error))
        now = self._clock.now_ms()
        next_at = now
        if attempt.provider == list(self._context.providers)[-1]:  # else the next one is asked at once
            known_s = error.retry_in_s if isinstance(error, Unavailable) else None
            # counted from its beginning: who has waited here for long goes on at once
            pause = max(0, _pause_ms(1000, self._job.waits, MAX_BACKOFF_MS) - (now - attempt.created_at))
            next_at += round(pause if known_s is None else known_s * 1000 * random.uniform(1.0, 1.2))
        self._write(lambda j, a: transitions.turn_down(j, a, error.code, str(error), now, next_at), attempt)

    def _follow(self, attempt: Attempt) -> None:
        overdue = self._overdue(attempt, self._clock.now_ms())
        try:
            remote = self._poll(attempt)
        except (NoCapacity, Unavailable) as error:
            self._not_told(attempt, error, overdue)
        else:
            self._polled(attempt, remote, overdue)

    def _poll(self, attempt: Attempt) -> Remote:
        """Raises NoCapacity or Unavailable."""
        try:
            return self._provider(attempt).poll(attempt)
        except (NoCapacity, Unavailable):
            raise
        except Exception as error:
            # a bug there must not keep the job from its end
            log.exception("provider.poll_failed", provider=attempt.provider)
            raise Unavailable(f"it cannot be asked: {type(error).__name__}") from error

    def _not_told(self, attempt: Attempt, error: NoCapacity | Unavailable, overdue: JobError | None) -> None:
        """The provider did not say how the attempt fares."""
        if overdue is None and isinstance(error, NoCapacity) and attempt.claimed_at is None:
            self._turned_down(attempt, error)
            return
        log.warning("provider.unavailable", provider=attempt.provider, reason=str(error))
        if overdue is None and self._clock.now_ms() > self._limit(attempt):
            overdue = ProviderUnreachable()
        if overdue is not None:
            self._take_back(attempt, overdue)
        else:
            self._write(lambda j, a: (j, a), attempt, next_in_ms=LATER_MS)

    def _polled(self, attempt: Attempt, remote: Remote, overdue: JobError | None) -> None:
        """What has ended there is never taken back: a gateway that was away too long still gets the result."""
        ended = remote.phase is Phase.COMPLETED or (
            remote.phase is Phase.FAILED and not isinstance(remote.error, Stopped)
        )
        if overdue is not None and not ended:
            self._take_back(attempt, overdue)
            return
        now = self._clock.now_ms()
        match remote.phase:
            case Phase.COMPLETED:
                self._completed_there(attempt, remote, now)
            case Phase.FAILED:
                error = remote.error or WorkerError()
                if (
                    isinstance(error, JobTimeout)
                    and attempt.claimed_at is None
                    and self._context.settings.worker_events
                ):
                    error = ClaimTimeout()
                self._write(_failed_there(attempt, error, now), attempt, remote=remote)
            case Phase.GONE:
                gone = WorkerLost("The worker no longer knows the attempt.")
                self._write(_failed_there(attempt, gone, now), attempt)
            case Phase.WAITING if now >= self._job.queue_deadline and attempt.claimed_at is None:
                self._take_back(attempt, self._queue_timeout(remote.reason))
            case Phase.WAITING | Phase.RUNNING:
                change = partial(_still_there, remote=remote, now=now)
                self._write(change, attempt, next_in_ms=self._until_next_look_ms(attempt, now))
            case _:
                assert_never(remote.phase)

    def _completed_there(self, attempt: Attempt, remote: Remote, now: int) -> None:
        stats = remote.result["stats"] if remote.result else {}
        missing: JobError | None
        try:
            missing = check_output(self._context.storage, attempt, stats, self._context.settings.max_output_bytes)
        except StorageUnavailable as error:
            log.warning("storage.unavailable", reason=str(error))
            if now <= self._limit(attempt):
                self._write(lambda j, a: (j, a), attempt, next_in_ms=LATER_MS)
                return
            missing = StorageUnreachable()
        change = (
            _failed_there(attempt, missing, now) if missing else partial(transitions.complete, stats=stats, now=now)
        )
        self._write(change, attempt, remote=remote)

    def _until_next_look_ms(self, attempt: Attempt, now: int) -> int:
        if attempt.heard_at is None:
            return self._pause_ms(attempt, now)
        wished = min(POLL_CLAIMED_MS, max(FIRST_MS, attempt.heard_at + SILENCE_MS + 1 - now))
        return self._context.poll_scheduler.spread_ms(now, wished)

    def _pause_ms(self, attempt: Attempt, now: int) -> int:
        told = self._context.settings.worker_events
        return self._context.poll_scheduler.pause_ms(attempt, self._job.operation, now, told=told)

    def _overdue(self, attempt: Attempt, now: int) -> JobError | None:
        """Why nobody waits for the attempt any longer, unless it has ended there."""
        if attempt.claimed_at is not None:
            # While no gateway ran, nobody could report.
            if now - max(attempt.heard_at or 0, self._listening_since) > SILENCE_MS:
                return WorkerLost()
        elif attempt.state is AttemptState.AMBIGUOUS and now - (attempt.sent_at or attempt.created_at) > AMBIGUOUS_MS:
            return SubmitUnconfirmed()
        elif self._context.settings.worker_events and now - (attempt.running_at or now) > UNCLAIMED_MS:
            return ClaimTimeout()
        began = attempt.claimed_at or attempt.running_at
        return JobTimeout() if began is not None and now > self._limit(attempt) else None

    def _limit(self, attempt: Attempt) -> int:
        """When the attempt must have ended, in ms UTC."""
        began_at = attempt.claimed_at or attempt.running_at or attempt.deadline
        return min(attempt.deadline, began_at + self._job.timeout_s * 1000 + jobs.MARGIN_MS)

    def _take_back(self, attempt: Attempt, error: JobError) -> None:
        self._cancel_there(attempt)
        self._write(_failed_there(attempt, error, self._clock.now_ms()), attempt)

    def _clean_up(self, attempt: Attempt | None) -> None:
        """The job is over: take back what may still run."""
        may_run = attempt is not None and not attempt.ended and attempt.sent_at is not None
        if attempt and may_run and not self._cancel_there(attempt) and self._clock.now_ms() < attempt.deadline:
            self._write(lambda j, a: (j, a), attempt, next_in_ms=LATER_MS)
            return
        price = self._context.ends.price(attempt) if attempt is not None else None
        with self._store.transaction() as tx:
            job = tx.leased_job(self._job.id, self._token)
            now = self._clock.now_ms()
            fresh = tx.attempt(job.attempt_id) if job.attempt_id else None
            left = None if fresh is None or fresh.ended else fresh
            if left is not None:
                job, left = self._context.ends.charge(tx, job, transitions.supersede(left, now), price)
                tx.save_attempt(left)
            self._release(tx, job, None)
            tx.wake_oldest_waiting(now)
        if left is not None:
            self._context.ends.of_attempt(job, job, left)

    def _cancel_there(self, attempt: Attempt) -> bool:
        try:
            self._provider(attempt).cancel(attempt)
            return True
        except Unavailable as error:
            log.warning("attempt.cancel_failed", provider=attempt.provider, reason=str(error))
        except Exception:
            # as in _poll
            log.exception("attempt.cancel_failed", provider=attempt.provider)
        return False

    def _write(
        self,
        change: Callable[[Job, Attempt], transitions.Pair],
        attempt: Attempt,
        *,
        next_in_ms: float | None = None,
        wake: bool = False,
        remote: Remote | None = None,
    ) -> None:
        """Apply `change` to the records as they are now, under the lease, and give the lease back.

        `next_in_ms` says when to look again; without it the change itself has said so. `wake`: where this one was
        taken there may be room for the next, as there is when an attempt ends that had been taken.
        """
        stats = remote.result["stats"] if remote and remote.result else None
        price = self._context.ends.price(attempt, stats) if next_in_ms is None else None  # else it does not end

        def write(tx: Transaction) -> tuple[Job, Attempt, Job, Attempt]:
            job = tx.leased_job(self._job.id, self._token)
            fresh = tx.attempt(attempt.id)
            assert fresh is not None
            after, changed = change(job, fresh)
            if changed.ended and not fresh.ended:
                took_ms = remote.execution_ms if remote else None
                after, changed = self._context.ends.charge(tx, after, changed, price, took_ms)
            if changed != fresh:
                tx.save_attempt(changed)
            next_at = after.next_at if next_in_ms is None else self._clock.now_ms() + round(next_in_ms)
            self._release(tx, after, next_at)
            if wake or (changed.ended and fresh.state is not AttemptState.INTENT):
                tx.wake_oldest_waiting(self._clock.now_ms())
            return job, fresh, after, changed

        job, fresh, after, changed = self._store.together(write)
        if changed.ended and not fresh.ended:
            self._context.ends.of_attempt(job, after, changed, remote.took_ms if remote else None)
            self._context.notifier.notify()

    def _release(self, tx: Transaction, job: Job, next_at: int | None) -> None:
        free = replace(job, next_at=next_at, lease_token=None, lease_expires_at=None)
        tx.save_job(free, lease_token=self._token)

    def _provider(self, attempt: Attempt) -> Provider:
        """Raises Unavailable for one that has been taken out of PROVIDERS since."""
        provider = self._context.providers.get(attempt.provider)
        if provider is None:
            raise Unavailable(f"{attempt.provider} is no longer among PROVIDERS")
        return provider

    def _next_provider(self, previous: Attempt | None) -> str:
        names = list(self._context.providers)
        if previous is None or previous.provider not in names:
            return names[0]
        # Nobody there has ever answered for it, as when a provider says 500 to every submit.
        unknown = (previous.remote_id, previous.claim_id, previous.running_at) == (None, None, None)
        if not unknown and previous.error_code not in _NEXT_PROVIDER:
            return names[0]
        return names[(names.index(previous.provider) + 1) % len(names)]

    def _job_input(self, attempt: Attempt) -> dict[str, Any]:
        settings = self._context.settings
        token = self._context.signer.sign(EVENTS_PURPOSE, [attempt.id, attempt.deadline])
        events = EventTarget(f"{settings.worker_base}/events/{attempt.id}", token) if settings.worker_events else None
        delivery = Delivery(
            job_id=self._job.id,
            attempt_id=attempt.id,
            deadline=attempt.deadline,
            limits=Limits(settings.max_asset_bytes, settings.max_output_bytes, self._job.timeout_s),
            uploads={
                "video": self._context.storage.presign_put(
                    attempt.output_key, max_bytes=settings.max_output_bytes, expires_at=attempt.deadline
                )
            },
            request_id=self._job.request_id,
            events=events,
        )
        return {"operation": self._job.operation, **self._job.params, "delivery": _DELIVERY.dump(delivery)}


def _still_there(job: Job, attempt: Attempt, remote: Remote, now: int) -> transitions.Pair:
    if remote.phase is Phase.WAITING and attempt.state is AttemptState.AMBIGUOUS and attempt.remote_id is None:
        return transitions.waits(job, attempt, remote.reason)  # it was not found there: nobody knows yet
    job, attempt = transitions.accept(job, attempt, attempt.remote_id, now)
    if remote.phase is Phase.RUNNING:
        return transitions.runs(job, attempt, remote.progress or 0.0, now)
    return transitions.waits(job, attempt, remote.reason)


def _failed_there(polled: Attempt, error: JobError, now: int) -> Callable[[Job, Attempt], transitions.Pair]:
    """What the end of the attempt that was looked at as `polled` means for the records as they are now."""

    def change(job: Job, attempt: Attempt) -> transitions.Pair:
        claimed_since = attempt.claim_id != polled.claim_id
        if claimed_since or (isinstance(error, Stopped) and attempt.state is AttemptState.CLAIMED):
            # a claim is alive; if it is not, its silence will tell
            return replace(job, next_at=now + POLL_CLAIMED_MS), attempt
        return transitions.fail(job, attempt, WorkerLost() if isinstance(error, Stopped) else error, now)

    return change


def _pause_ms(first_ms: float, waits: int, most_ms: float) -> float:
    """Longer with every wait, and never the same for two jobs."""
    return min(most_ms, first_ms * 1.5 ** min(waits, 20)) * random.uniform(0.8, 1.2)

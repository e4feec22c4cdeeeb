"""What the HTTP API may ask of jobs: make one, cancel one, wait for one, take a worker's event."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from common.clock import Clock
from gateway.access.quotas import Quotas
from gateway.db.store import Store
from gateway.dispatch.attempt_writer import Ends
from gateway.dispatch.notifier import ChangeNotifier
from gateway.dispatch.output_check import check_output
from gateway.domain import ids, jobs, transitions, webhooks
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job
from gateway.domain.prices import Price
from gateway.errors import AttemptSuperseded, IdempotencyMismatch, JobNotFinished, NotFound, NoWebhook, StorageLow
from gateway.settings import Settings
from gateway.storage import Storage, StorageUnavailable
from gateway.upkeep.metrics import Metrics
from wire.envelope import Event
from wire.errors import JobError

log = structlog.get_logger(__name__)

# Ends that another process committed are found by looking this often.
_LOOK_S = 0.5


class Jobs:
    """Every method is one or two short transactions; `notifier` rings when the dispatcher or a waiter has work."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        clock: Clock,
        settings: Settings,
        notifier: ChangeNotifier,
        ends: Ends,
        metrics: Metrics,
        quotas: Quotas,
    ) -> None:
        self._store, self._storage, self._clock, self._settings = store, storage, clock, settings
        self._notifier, self._ends, self._metrics, self._quotas = notifier, ends, metrics, quotas
        self._closing = False

    def create(
        self,
        key_id: str,
        operation: str,
        params: Mapping[str, Any],
        idempotency_key: str | None = None,
        webhook_url: str | None = None,
    ) -> Job:
        """A new job, committed. With an Idempotency-Key, the job of the first such request.

        Raises IdempotencyMismatch when that request was another one, StorageLow when there is no room for a new job,
        TooManyJobs and SpendingLimit when the key may have no more.
        """
        now = self._clock.now_ms()
        job = Job(
            id=ids.new("job", now),
            key_id=key_id,
            operation=operation,
            params=params,
            status=jobs.JobStatus.QUEUED,
            created_at=now,
            queued_at=now,
            timeout_s=self._settings.job_timeout_seconds,
            queue_limit_s=self._settings.queue_limit_seconds,
            webhook_url=webhook_url,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            next_at=now,
        )
        if idempotency_key is None:
            self._check_room()
            self._store.add_job(job, self._quotas.refusals)
        else:
            fingerprint = _fingerprint(operation, params, webhook_url)
            kept_ms = self._settings.idempotency_retention_seconds * 1000
            with self._store.transaction() as tx:
                known = tx.claim_idempotency_key(
                    key_id, idempotency_key, fingerprint, job.id, now=now, after=now - kept_ms
                )
                if known[1] != job.id:
                    return _same_request(known, fingerprint, tx.job(known[1]))
                # Only now: a request that was accepted already has its job, however full the disk is.
                self._check_room()
                if refused := self._quotas.refusals(tx, [job]):
                    raise refused[job.id]
                tx.add_job(job)
        structlog.contextvars.bind_contextvars(job_id=job.id)
        log.info("job.created", operation=operation, key_id=key_id)
        self._notifier.notify()
        return job

    def _check_room(self) -> None:
        if self._storage.free_percent() < self._settings.min_free_disk_percent:
            raise StorageLow

    def get(self, job_id: str, key_id: str) -> Job:
        """Raises NotFound for another key's job too."""
        job = self._store.job(job_id)
        if job is None or job.key_id != key_id:
            raise NotFound("There is no such job.")
        return job

    def cancel(self, job_id: str, key_id: str) -> Job:
        """Raises NotFound, or JobFinished when there is nothing left to cancel."""
        self.get(job_id, key_id)
        with self._store.transaction() as tx:
            job = tx.job(job_id)
            if job is None:
                raise NotFound("There is no such job.")
            before, job = job, transitions.cancel(job, self._clock.now_ms())
            tx.save_job(job)
            attempt = tx.attempt(job.attempt_id) if job.attempt_id else None
        if not before.finished:
            self._ends.of_job(job, attempt)
        self._notifier.notify()
        return job

    def replay_webhook(self, job_id: str, key_id: str) -> Job:
        """Send the webhook of a finished job once more. Raises NotFound, NoWebhook or JobNotFinished."""
        job = self.get(job_id, key_id)
        if job.webhook_url is None:
            raise NoWebhook
        if not job.finished:
            raise JobNotFinished
        with self._store.transaction() as tx:
            webhook = tx.webhook(job_id)
            if webhook is None:
                raise NotFound("There is no such job.")  # removed at this moment, and its webhook with it
            tx.save_webhook(webhooks.again(webhook, self._clock.now_ms()))
        log.info("webhook.replayed", job_id=job_id)
        self._notifier.notify()
        return job

    def wait(self, job: Job, seconds: float) -> Job:
        """The job once it has finished, or as it is after `seconds`, or when nobody shall wait any more."""
        ends_at = time.monotonic() + seconds
        while True:
            changes = self._notifier.changes
            job = self._store.job(job.id) or job
            left = ends_at - time.monotonic()
            if job.finished or left <= 0 or self._closing:
                return job
            self._notifier.wait(changes, min(left, _LOOK_S))

    def wait_no_more(self) -> None:
        """All who wait get their job as it is, from now on: the server stops, and would cut them off with no answer."""
        self._closing = True
        self._notifier.notify()

    def on_event(self, attempt_id: str, event: Event) -> None:
        """What a worker reports of its attempt. Raises AttemptSuperseded when it should stop."""
        if event.type == "completed" and event.result is not None:
            self._completed(attempt_id, event.claim_id, event.result["stats"])
        elif event.type == "failed" and event.error is not None:
            self._failed(attempt_id, event.claim_id, event.error)
        elif event.type == "started":
            now = self._clock.now_ms()
            _, job, attempt = self._apply(attempt_id, lambda j, a: transitions.claim(j, a, event.claim_id, now))
            log.info("attempt.claimed", job_id=job.id)
            if attempt.claimed_at == now:  # not where the claim was repeated
                self._metrics.claimed(attempt)
        else:
            progress = event.progress or 0.0
            self._apply(attempt_id, lambda j, a: transitions.beat(j, a, event.claim_id, progress, self._clock.now_ms()))

    def _completed(self, attempt_id: str, claim_id: str, stats: Mapping[str, Any]) -> None:
        attempt = self._store.attempt(attempt_id)
        limit = self._settings.max_output_bytes
        try:
            missing = check_output(self._storage, attempt, stats, limit) if attempt else None
        except StorageUnavailable:
            # the worker will ask again, and must not be taken for dead meanwhile
            self._apply(attempt_id, lambda j, a: transitions.beat(j, a, claim_id, 0.0, self._clock.now_ms()))
            raise
        if missing is not None:
            self._failed(attempt_id, claim_id, missing)
            return

        def end(job: Job, attempt: Attempt) -> transitions.Pair:
            if not transitions.held(job, attempt, claim_id, AttemptState.DONE):
                return job, attempt
            return transitions.complete(job, attempt, stats, self._clock.now_ms())

        self._end(attempt_id, end, stats)

    def _failed(self, attempt_id: str, claim_id: str, error: JobError) -> None:
        def end(job: Job, attempt: Attempt) -> transitions.Pair:
            if not transitions.held(job, attempt, claim_id, AttemptState.FAILED):
                return job, attempt
            return transitions.fail(job, attempt, error, self._clock.now_ms())

        self._end(attempt_id, end)

    def _end(
        self,
        attempt_id: str,
        change: Callable[[Job, Attempt], transitions.Pair],
        stats: Mapping[str, Any] | None = None,
    ) -> None:
        known = self._store.attempt(attempt_id)
        price = self._ends.price(known, stats) if known is not None else None
        (before, old), job, attempt = self._apply(attempt_id, change, price, frees_worker=True)
        if not old.ended:
            self._ends.of_attempt(before, job, attempt)
        self._notifier.notify()

    def _apply(
        self,
        attempt_id: str,
        change: Callable[[Job, Attempt], transitions.Pair],
        price: Price | None = None,
        *,
        frees_worker: bool = False,
    ) -> tuple[transitions.Pair, Job, Attempt]:
        """The records as they were, and as they are."""
        with self._store.transaction() as tx:
            attempt = tx.attempt(attempt_id)
            job = tx.job(attempt.job_id) if attempt else None
            if job is None or attempt is None:
                raise AttemptSuperseded
            # read again behind the job's lock, which on PostgreSQL is what keeps two events apart
            attempt = tx.attempt(attempt_id) or attempt
            structlog.contextvars.bind_contextvars(job_id=job.id)
            before = job, attempt
            job, attempt = change(job, attempt)
            if attempt.ended and not before[1].ended:
                job, attempt = self._ends.charge(tx, job, attempt, price)
            tx.save_job(job)
            tx.save_attempt(attempt)
            if frees_worker:
                tx.wake_oldest_waiting(self._clock.now_ms())
        return before, job, attempt


def _same_request(known: tuple[str, str], fingerprint: str, job: Job | None) -> Job:
    if known[0] != fingerprint:
        raise IdempotencyMismatch
    if job is None:
        raise NotFound("The job of this Idempotency-Key has been removed.")
    return job


def _fingerprint(operation: str, params: Mapping[str, Any], webhook_url: str | None) -> str:
    """The same for the same request, however its JSON was ordered."""
    request = [operation, params] if webhook_url is None else [operation, params, webhook_url]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

"""What the HTTP API may ask of jobs: make one, cancel one, wait for one, take a worker's event."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from gateway import ids, jobs
from gateway.bell import Bell
from gateway.costs import Costs
from gateway.jobs import Attempt, Job, State
from gateway.metrics import Metrics
from gateway.pace import Pace
from gateway.settings import Settings
from gateway.storage import Storage
from gateway.store import Store
from wire.clock import Clock
from wire.envelope import Event
from wire.errors import AttemptSuperseded, IdempotencyMismatch, JobError, NotFound, OutputMissing, StorageLow

log = structlog.get_logger(__name__)

IDEMPOTENCY_KEPT_MS = 24 * 3600 * 1000
# Ends that another process committed are found by looking this often.
_LOOK_S = 0.5


class Jobs:
    """Every method is one or two short transactions; `bell` rings when the dispatcher or a waiter has work."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        clock: Clock,
        settings: Settings,
        bell: Bell,
        costs: Costs,
        pace: Pace,
        metrics: Metrics,
    ) -> None:
        self._store, self._storage, self._clock, self._settings = store, storage, clock, settings
        self._bell, self._costs, self._pace, self._metrics = bell, costs, pace, metrics

    def create(self, key_id: str, operation: str, params: Mapping[str, Any], idempotency_key: str | None = None) -> Job:
        """A new job, committed. With an Idempotency-Key, the job of the first such request.

        Raises IdempotencyMismatch when that request was another one, StorageLow when there is no room for a new job.
        """
        now = self._clock.now_ms()
        job = Job(
            id=ids.new("job", now),
            key_id=key_id,
            operation=operation,
            params=params,
            status=jobs.Status.QUEUED,
            created_at=now,
            queued_at=now,
            timeout_s=self._settings.job_timeout_seconds,
            queue_limit_s=self._settings.queue_limit_seconds,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            next_at=now,
        )
        with self._store.transaction() as tx:
            if idempotency_key is not None:
                fingerprint = _fingerprint(operation, params)
                known = tx.claim_idempotency_key(
                    key_id, idempotency_key, fingerprint, job.id, now=now, after=now - IDEMPOTENCY_KEPT_MS
                )
                if known[1] != job.id:
                    return _same_request(known, fingerprint, tx.job(known[1]))
            # Only now: a request that was accepted already has its job, however full the disk is.
            if self._storage.free_percent() < self._settings.min_free_disk_percent:
                raise StorageLow
            tx.add_job(job)
        structlog.contextvars.bind_contextvars(job_id=job.id)
        log.info("job.created", operation=operation, key_id=key_id)
        self._bell.ring()
        return job

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
            assert job is not None
            ended_before = job.finished
            job = jobs.cancel(job, self._clock.now_ms())
            tx.save_job(job)
            attempt = tx.attempt(job.attempt_id) if job.attempt_id else None
        if not ended_before:
            self._metrics.job_ended(job, attempt)
        log.info("job.cancelled", job_id=job_id)
        self._bell.ring()
        return job

    def wait(self, job: Job, seconds: float) -> Job:
        """The job once it has finished, or as it is after `seconds`."""
        ends_at = time.monotonic() + seconds
        while True:
            rings = self._bell.rings
            job = self._store.job(job.id) or job
            left = ends_at - time.monotonic()
            if job.finished or left <= 0:
                return job
            self._bell.wait(rings, min(left, _LOOK_S))

    def on_event(self, attempt_id: str, event: Event) -> None:
        """What a worker reports of its attempt. Raises AttemptSuperseded when it should stop."""
        if event.type == "completed" and event.result is not None:
            self._completed(attempt_id, event.claim_id, event.result["stats"])
        elif event.type == "failed" and event.error is not None:
            self._failed(attempt_id, event.claim_id, event.error)
        elif event.type == "started":
            now = self._clock.now_ms()
            job, attempt = self._apply(attempt_id, lambda j, a: jobs.claim(j, a, event.claim_id, now))
            log.info("attempt.claimed", job_id=job.id)
            if attempt.claimed_at == now:  # not where the claim was repeated
                self._metrics.claimed(attempt)
        else:
            progress = event.progress or 0.0
            self._apply(attempt_id, lambda j, a: jobs.beat(j, a, event.claim_id, progress, self._clock.now_ms()))

    def _completed(self, attempt_id: str, claim_id: str, stats: Mapping[str, Any]) -> None:
        attempt = self._store.attempt(attempt_id)
        missing = check_output(self._storage, attempt, stats) if attempt else None
        if missing is not None:
            self._failed(attempt_id, claim_id, missing)
            return

        def end(job: Job, attempt: Attempt) -> jobs.Pair:
            if not jobs.held(job, attempt, claim_id, State.DONE):
                return job, attempt
            return jobs.complete(job, attempt, stats, self._clock.now_ms())

        self._end(attempt_id, end)

    def _failed(self, attempt_id: str, claim_id: str, error: JobError) -> None:
        def end(job: Job, attempt: Attempt) -> jobs.Pair:
            if not jobs.held(job, attempt, claim_id, State.FAILED):
                return job, attempt
            return jobs.fail(job, attempt, error, self._clock.now_ms())

        self._end(attempt_id, end)

    def _end(self, attempt_id: str, change: Callable[[Job, Attempt], jobs.Pair]) -> None:
        before = self._store.attempt(attempt_id)
        job, attempt = self._apply(attempt_id, change, frees_worker=True)
        if before is not None and not before.ended:
            log_end(job, attempt)
            self._pace.learn(job, attempt)
            self._metrics.attempt_ended(attempt)
            if job.finished:
                self._metrics.job_ended(job, attempt)
        self._bell.ring()

    def _apply(
        self, attempt_id: str, change: Callable[[Job, Attempt], jobs.Pair], *, frees_worker: bool = False
    ) -> jobs.Pair:
        with self._store.transaction() as tx:
            attempt = tx.attempt(attempt_id)
            job = tx.job(attempt.job_id) if attempt else None
            if job is None or attempt is None:
                raise AttemptSuperseded
            # read again behind the job's lock, which on PostgreSQL is what keeps two events apart
            attempt = tx.attempt(attempt_id) or attempt
            structlog.contextvars.bind_contextvars(job_id=job.id)
            ended = attempt.ended
            job, attempt = change(job, attempt)
            if attempt.ended and not ended:
                job, attempt = self._costs.charge(job, attempt)
            tx.save_job(job)
            tx.save_attempt(attempt)
            if frees_worker:
                tx.wake_oldest_waiting(self._clock.now_ms())
        return job, attempt


def check_output(storage: Storage, attempt: Attempt, stats: Mapping[str, Any]) -> OutputMissing | None:
    """Whether what the worker says it stored is there."""
    stored = storage.stat(attempt.output_key)
    if stored is None:
        return OutputMissing(detail="nothing is stored under the attempt's key")
    if stored.size_bytes != stats.get("size_bytes"):
        return OutputMissing(detail=f"{stored.size_bytes} bytes are stored, the worker made {stats.get('size_bytes')}")
    return None


def log_end(job: Job, attempt: Attempt) -> None:
    """The one line that tells how an attempt ended and what that means for its job."""
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


def _same_request(known: tuple[str, str], fingerprint: str, job: Job | None) -> Job:
    if known[0] != fingerprint:
        raise IdempotencyMismatch
    if job is None:
        raise NotFound("The job of this Idempotency-Key has been removed.")
    return job


def _fingerprint(operation: str, params: Mapping[str, Any]) -> str:
    """The same for the same request, however its JSON was ordered."""
    return hashlib.sha256(json.dumps([operation, params], sort_keys=True).encode()).hexdigest()

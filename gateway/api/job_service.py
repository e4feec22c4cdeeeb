"""What the HTTP API does with jobs: create, read, cancel, and send a webhook again."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from common.clock import Clock
from gateway.access.quotas import Quotas
from gateway.api.job_request import JobRequest
from gateway.db.store import Store
from gateway.db.transaction import StaleLease
from gateway.dispatch.attempt_writer import AttemptWriter, Update
from gateway.dispatch.notifier import ChangeNotifier
from gateway.domain import ids, jobs, transitions, webhooks
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.domain.outputs import Output
from gateway.errors import IdempotencyMismatch, JobNotFinished, NotFound, NoWebhook, StorageLow
from gateway.settings import Settings
from gateway.storage import Storage

log = structlog.get_logger(__name__)


class Jobs:
    """Every method is one or two short transactions; changes wake the dispatcher."""

    def __init__(
        self,
        store: Store,
        storage: Storage,
        clock: Clock,
        settings: Settings,
        notifier: ChangeNotifier,
        writer: AttemptWriter,
        quotas: Quotas,
    ) -> None:
        self._store, self._storage, self._clock, self._settings = store, storage, clock, settings
        self._notifier, self._writer, self._quotas = notifier, writer, quotas

    def create(self, key_id: str, request: JobRequest, idempotency_key: str | None = None) -> Job:
        """Create and commit a job. With an Idempotency-Key, return the job of the first such request.

        Raises IdempotencyMismatch when that request was a different one, StorageLow when the disk is nearly full,
        TooManyJobs, TooManyBytes and SpendingLimit when the key has reached a quota.
        """
        now = self._clock.now_ms()
        job = Job(
            id=ids.new("job", now),
            key_id=key_id,
            operation=request.operation,
            status=jobs.JobStatus.QUEUED,
            created_at=now,
            queued_at=now,
            timeout_s=self._settings.job_timeout_seconds,
            queue_limit_s=self._settings.queue_limit_seconds,
            outputs={name: Output(media_type) for name, media_type in request.outputs.items()},
            params_bytes=len(request.params.encode()),
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            next_at=now,
            **request.fields,
        )
        if idempotency_key is None:
            self._check_room()
            self._store.add_job(job, request.params, self._quotas.refusals)
        else:
            kept_ms = self._settings.idempotency_retention_seconds * 1000
            with self._store.transaction() as tx:
                known = tx.claim_idempotency_key(
                    key_id, idempotency_key, request.fingerprint, job.id, now=now, after=now - kept_ms
                )
                if known[1] != job.id:
                    return _same_request(known, request.fingerprint, tx.job(known[1]))
                # Only now: a repeated request needs no space.
                self._check_room()
                if refused := self._quotas.refusals(tx, [job]):
                    raise refused[job.id]
                tx.add_job(job, request.params)
        structlog.contextvars.bind_contextvars(job_id=job.id)
        log.info("job.created", operation=request.operation, key_id=key_id)
        self._notifier.notify()
        return job

    def _check_room(self) -> None:
        if self._store.reserve.is_low() or self._storage.free_percent() < self._settings.min_free_disk_percent:
            raise StorageLow

    def get(self, job_id: str, key_id: str) -> Job:
        """Read a job. Raises NotFound, also for a job of another key."""
        job = self._store.job(job_id)
        if job is None or job.key_id != key_id:
            raise NotFound("There is no such job.")
        return job

    def get_many(self, job_ids: Collection[str], key_id: str) -> dict[str, Job]:
        """Read those of the jobs that exist and belong to the key, by id."""
        found = self._store.jobs_by_id(job_ids)
        return {job_id: job for job_id, job in found.items() if job.key_id == key_id}

    def cancel(self, job_id: str, key_id: str) -> Job:
        """Cancel a job. Raises NotFound, or JobFinished if it has already ended."""
        job = self.get(job_id, key_id)
        attempt = self._store.attempt(job.attempt_id) if job.attempt_id else None

        def change(job: Job, attempt: Attempt | None) -> tuple[Job, Attempt | None]:
            return transitions.cancel(job, self._clock.now_ms()), attempt

        try:
            job = self._writer.write(job_id, Update(attempt, change, ending=None)).job
        except StaleLease:
            raise NotFound("There is no such job.") from None
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
                raise NotFound("There is no such job.")  # removed in the meantime
            tx.save_webhook(webhooks.again(webhook, self._clock.now_ms()))
        log.info("webhook.replayed", job_id=job_id)
        self._notifier.notify()
        return job


def _same_request(known: tuple[str, str], fingerprint: str, job: Job | None) -> Job:
    if known[0] != fingerprint:
        raise IdempotencyMismatch
    if job is None:
        raise NotFound("The job of this Idempotency-Key has been removed.")
    return job

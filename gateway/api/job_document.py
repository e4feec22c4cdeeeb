"""A job as clients see it: one shape in answers, lists and webhooks."""

from __future__ import annotations

from typing import Any

from common.clock import Clock, to_rfc3339
from gateway.api import webhook_document
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.prices import usd
from gateway.domain.webhooks import Webhook
from gateway.settings import Settings
from gateway.storage import Storage

# Of a job that waits long there are many: the last ones are shown.
SHOWN_ATTEMPTS = 10


class Documents:
    """Makes them; `gateway.api.job_response.JobSchema` describes them."""

    def __init__(self, settings: Settings, store: Store, storage: Storage, clock: Clock) -> None:
        self._settings, self._store, self._storage, self._clock = settings, store, storage, clock

    def of(self, job: Job) -> dict[str, Any]:
        """The job's document; what it does not have is left out."""
        return self.of_all([job])[0]

    def of_all(self, jobs: list[Job]) -> list[dict[str, Any]]:
        owed = [job.id for job in jobs if job.finished and job.webhook_url is not None]
        found = self._store.webhooks(owed) if owed else {}
        begun = [job.id for job in jobs if job.attempt_id is not None]
        tried = self._store.attempts_of(begun) if begun else {}
        return [self._of(job, found.get(job.id), tried.get(job.id, [])) for job in jobs]

    def _of(self, job: Job, webhook: Webhook | None, attempts: list[Attempt]) -> dict[str, Any]:
        document: dict[str, Any] = {
            "jobId": job.id,
            "operation": job.operation,
            "status": str(job.status),
            "progress": round(job.progress, 4),
            "statusUrl": f"{self._settings.client_base}/jobs/{job.id}",
            "createdAt": to_rfc3339(job.created_at),
            "startedAt": to_rfc3339(job.started_at) if job.started_at else None,
            "finishedAt": to_rfc3339(job.finished_at) if job.finished_at else None,
            "waitingFor": job.waiting_for,
            "attempts": [_attempt(attempt) for attempt in attempts[-SHOWN_ATTEMPTS:]] or None,
            "webhook": webhook_document.document(job, webhook) if job.webhook_url is not None else None,
        }
        kept_until = job.output_expires_at(self._settings.output_retention_seconds)
        if kept_until is not None and job.output_key:
            now = self._clock.now_ms()
            if now < kept_until:
                url_ends_at = now + self._settings.url_ttl_seconds * 1000
                document["video_url"] = self._storage.presign_get(job.output_key, expires_at=url_ends_at)
            document["expiresAt"] = to_rfc3339(kept_until)
            document["stats"] = _stats(job)
        if job.status is JobStatus.FAILED:
            document["error"] = {"code": job.error_code, "message": job.error_message}
        return {key: value for key, value in document.items() if value is not None}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    document = {
        "provider": attempt.provider,
        "createdAt": to_rfc3339(attempt.created_at),
        "endedAt": to_rfc3339(attempt.ended_at) if attempt.ended_at else None,
        "code": attempt.error_code,
        "reason": attempt.error_message,
    }
    return {key: value for key, value in document.items() if value is not None}


def _stats(job: Job) -> dict[str, Any]:
    assert job.started_at is not None and job.finished_at is not None
    return {
        **(job.stats or {}),
        "queue_s": round((job.started_at - job.created_at) / 1000, 3),
        "total_s": round((job.finished_at - job.created_at) / 1000, 3),
        "tries": job.tries,
        "cost_usd": None if job.cost_nano is None else usd(job.cost_nano),
    }

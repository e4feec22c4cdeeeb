"""A job as clients see it: one shape in responses, lists and webhooks, dumped by the schema that documents it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from marshmallow import fields, post_dump, validate

from common.clock import Clock
from gateway.api.openapi.paths import ULID
from gateway.api.openapi.schemas import ResponseSchema
from gateway.db.store import Store
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.prices import usd
from gateway.domain.webhooks import Webhook, WebhookState
from gateway.settings import Settings
from gateway.storage import Storage
from wire.envelope import Rfc3339, StatsSchema
from wire.errors import CODES, JobError, WorkerError

# A job that waits for long has many attempts; only the last ones are shown.
SHOWN_ATTEMPTS = 10


class _Sparse(ResponseSchema):
    """Omits fields that are None."""

    @post_dump
    def _without_none(self, document: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {key: value for key, value in document.items() if value is not None}


class JobStatsSchema(StatsSchema):
    """Figures of a finished job. Times in seconds, sizes in bytes."""

    device = fields.String(metadata={"enum": ["cpu", "gpu"], "description": "What encoded the video."})
    queue_s = fields.Float(required=True, metadata={"description": "From the request to the start of the work."})
    total_s = fields.Float(required=True, metadata={"description": "From the request to the end."})
    provider = fields.String(required=True, metadata={"description": "The provider of the last attempt."})
    tries = fields.Integer(
        required=True, metadata={"description": "Number of attempts that may have run, including the last."}
    )
    cost_usd = fields.Float(
        required=True,
        allow_none=True,
        metadata={
            "description": "Cost of all attempts' running time and of billed traffic, without the start of workers; "
            "null on own machines."
        },
    )
    idle_cost_usd = fields.Float(
        metadata={
            "description": "Additional cost of the worker's idle time if no other job follows, often many times "
            "`cost_usd`. Missing on own machines."
        }
    )


class _Code(fields.String):
    """A known code. That of a worker newer than this gateway becomes `worker_error`; the message says what failed."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return super()._serialize(value if value in CODES else WorkerError.code, attr, obj, **kwargs)


class JobErrorSchema(ResponseSchema):
    """Why a job failed."""

    code = _Code(
        required=True,
        attribute="error_code",
        metadata={
            "description": "Stable identifier.",
            "enum": sorted(code for code, cls in CODES.items() if issubclass(cls, JobError)),
        },
    )
    message = fields.String(required=True, attribute="error_message", metadata={"description": "Text for people."})


class JobOutputSchema(ResponseSchema):
    """A finished file."""

    url = fields.String(
        required=True, metadata={"format": "uri", "description": "Signed anew at every read; needs no key."}
    )
    content_type = fields.String(required=True, metadata={"description": "MIME type."})
    size_bytes = fields.Integer(required=True, metadata={"description": "Size of the file."})


class JobWebhookSchema(_Sparse):
    """The state of the job's webhook."""

    url = fields.String(required=True, metadata={"description": "The URL without user, password and query."})
    status = fields.String(
        required=True,
        attribute="webhook.state",
        dump_default=WebhookState.PENDING,
        metadata={"enum": [str(state) for state in WebhookState]},
    )
    tries = fields.Integer(
        required=True,
        attribute="webhook.tries",
        dump_default=0,
        metadata={"description": "Tries since the job ended or since the last replay."},
    )
    id = fields.String(
        attribute="webhook.id", metadata={"description": "The header `webhook-id`, the same at every try."}
    )
    lastTryAt = Rfc3339(attribute="webhook.last_try_at", metadata={"description": "When it was last tried."})
    lastStatusCode = fields.Integer(
        attribute="webhook.last_status_code",
        metadata={"description": "Status of the last response, if any."},
    )
    lastError = fields.String(attribute="webhook.last_error", metadata={"description": "Why there was no response."})
    nextTryAt = Rfc3339(attribute="webhook.next_at", metadata={"description": "The next try of a pending webhook."})


class JobAttemptSchema(_Sparse):
    """One try of the job."""

    provider = fields.String(required=True, metadata={"description": "The provider that was asked to run it."})
    createdAt = Rfc3339(required=True, attribute="created_at", metadata={"description": "When it was asked."})
    endedAt = Rfc3339(attribute="ended_at", metadata={"description": "Missing while it has not ended."})
    code = fields.String(
        attribute="error_code",
        metadata={
            "description": "Why it ended without success: an error's code, `no_capacity` or `provider_unavailable`."
        },
    )
    reason = fields.String(attribute="error_message", metadata={"description": "The reason as text."})


class JobSchema(_Sparse):
    """A job; the same document everywhere, with its keys in this order: what clients look for first, details last."""

    jobId = fields.String(
        required=True, attribute="job.id", metadata={"description": "`job_` and a ULID.", "pattern": f"^job_{ULID}$"}
    )
    operation = fields.String(required=True, attribute="job.operation", metadata={"description": "As in its path."})
    reference = fields.String(attribute="job.reference", metadata={"description": "As the request set it."})
    status = fields.String(
        required=True, attribute="job.status", metadata={"enum": [str(status) for status in JobStatus]}
    )
    progress = fields.Float(
        required=True, validate=validate.Range(0, 1), metadata={"description": "0 to 1, of the newest attempt."}
    )
    statusUrl = fields.String(
        required=True, attribute="status_url", metadata={"format": "uri", "description": "URL of the job."}
    )
    createdAt = Rfc3339(required=True, attribute="job.created_at", metadata={"description": "RFC 3339, UTC."})
    startedAt = Rfc3339(attribute="job.started_at", metadata={"description": "When a worker first began it."})
    finishedAt = Rfc3339(attribute="job.finished_at", metadata={"description": "When it ended."})
    waitingFor = fields.String(
        attribute="job.waiting_for", metadata={"description": "Why a queued job has not started, where that is known."}
    )
    error = fields.Nested(JobErrorSchema)
    outputs = fields.Dict(
        keys=fields.String(),
        values=fields.Nested(JobOutputSchema),
        metadata={"description": "The finished files by name. Left out once they have expired."},
    )
    video_url = fields.String(metadata={"format": "uri", "description": "URL of the first video among the outputs."})
    expiresAt = Rfc3339(attribute="expires_at", metadata={"description": "When the finished files are removed."})
    result = fields.Dict(
        attribute="job.result",
        keys=fields.String(),
        metadata={"description": "What the operation returns besides files, if anything."},
    )
    stats = fields.Nested(JobStatsSchema)
    webhook = fields.Nested(JobWebhookSchema)
    attempts = fields.List(
        fields.Nested(JobAttemptSchema),
        metadata={"description": "The last ten attempts, oldest first: the provider, and why the attempt ended."},
    )


# Created once, because creating it takes longer than using it.
_JOB = JobSchema()


@dataclass(frozen=True)
class JobView:
    """The source of JobSchema."""

    #: The record.
    job: Job
    #: Where the client reads it again.
    status_url: str
    #: The last SHOWN_ATTEMPTS, oldest first; None if there are none.
    attempts: list[Attempt] | None
    #: The source of JobWebhookSchema; None without one. Its `webhook` is missing until the job has ended.
    webhook: Mapping[str, Any] | None
    #: Outputs that can be downloaded now, by name; None if there are none.
    outputs: Mapping[str, Mapping[str, Any]] | None
    #: URL of the first video among the outputs; None without one.
    video_url: str | None
    #: When the outputs are removed.
    expires_at: int | None

    @property
    def progress(self) -> float:
        return round(self.job.progress, 4)

    @property
    def error(self) -> Job | None:
        return self.job if self.job.status is JobStatus.FAILED else None

    @property
    def stats(self) -> dict[str, Any] | None:
        job = self.job
        if job.stats is None:
            return None
        assert job.started_at is not None and job.finished_at is not None
        return {
            **job.stats,
            "queue_s": round((job.started_at - job.created_at) / 1000, 3),
            "total_s": round((job.finished_at - job.created_at) / 1000, 3),
            "tries": job.tries,
            "cost_usd": None if job.cost_nano is None else usd(job.cost_nano),
        }


class JobDocuments:
    """Creates the documents of jobs."""

    def __init__(self, settings: Settings, store: Store, storage: Storage, clock: Clock) -> None:
        self._settings, self._store, self._storage, self._clock = settings, store, storage, clock

    def of(self, job: Job) -> dict[str, Any]:
        """The job's document."""
        return _JOB.dump(self.view(job))  # type: ignore[no-any-return]

    def view(self, job: Job) -> JobView:
        """The source of a job's document."""
        return self.views([job])[0]

    def views(self, jobs: list[Job]) -> list[JobView]:
        """The sources of the documents of `jobs`, with at most two queries."""
        owed = [job.id for job in jobs if job.finished and job.webhook_url is not None]
        webhooks = self._store.webhooks(owed) if owed else {}
        begun = [job.id for job in jobs if job.attempt_id is not None]
        attempts = self._store.attempts_of(begun) if begun else {}
        return [self._view(job, webhooks.get(job.id), attempts.get(job.id, [])) for job in jobs]

    def _view(self, job: Job, webhook: Webhook | None, attempts: list[Attempt]) -> JobView:
        now, expires_at = self._clock.now_ms(), job.outputs_expire_at(self._settings.output_retention_seconds)
        outputs = self._outputs(job, now) if expires_at is not None and now < expires_at else {}
        video = next((name for name in outputs if job.outputs[name].media_type.kind == "video"), None)
        stored = {"webhook": webhook} if webhook else {}
        return JobView(
            job=job,
            status_url=f"{self._settings.client_base}/jobs/{job.id}",
            attempts=attempts[-SHOWN_ATTEMPTS:] or None,
            webhook=None if job.webhook_url is None else {"url": public_part(job.webhook_url), **stored},
            outputs=outputs or None,
            video_url=outputs[video]["url"] if video else None,
            expires_at=expires_at,
        )

    def _outputs(self, job: Job, now: int) -> dict[str, dict[str, Any]]:
        url_ends_at = now + self._settings.url_ttl_seconds * 1000
        return {
            name: {
                "url": self._storage.presign_get(output.key, expires_at=url_ends_at),
                "content_type": output.media_type.mime,
                "size_bytes": output.size_bytes,
            }
            for name, output in job.outputs.items()
            if output.key is not None
        }


def public_part(url: str) -> str:
    """The URL without its parts that may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

"""The shapes that clients see, and the waiting that several routes offer."""

from __future__ import annotations

import re

import structlog
from flask import Response, jsonify, request
from marshmallow import Schema, fields, validate
from sqlalchemy.exc import SQLAlchemyError

from gateway.domain.jobs import FINISHED, Job, JobStatus
from gateway.domain.webhooks import WebhookState
from gateway.wiring import services
from wire.envelope import StatsSchema
from wire.errors import CODES, JobError

log = structlog.get_logger(__name__)

# Of a job that is not over: the least pause before the next look, and the most while it runs and while it waits.
LEAST_RETRY_S = 1
MOST_RETRY_RUNNING_S, MOST_RETRY_QUEUED_S = 10, 30


class JobStatsSchema(StatsSchema):
    """Figures of a finished job. Times in seconds, sizes in bytes."""

    queue_s = fields.Float(metadata={"description": "From the request to the start of the work."})
    total_s = fields.Float(metadata={"description": "From the request to the end."})
    provider = fields.String(metadata={"description": "Who lent the machine."})
    tries = fields.Integer(metadata={"description": "How many attempts may have run, the last one included."})
    cost_usd = fields.Float(
        allow_none=True,
        metadata={
            "description": "What all attempts cost, by the time that machines worked on them and without the start of "
            "a worker; null on own machines."
        },
    )
    idle_cost_usd = fields.Float(
        metadata={
            "description": "What the worker costs on top while it waits for the next job, if none comes: for a job "
            "that comes alone often many times `cost_usd`. Not there on own machines."
        }
    )


class JobErrorSchema(Schema):
    code = fields.String(
        metadata={
            "description": "Stable word for programs.",
            "enum": sorted(code for code, cls in CODES.items() if issubclass(cls, JobError)),
        }
    )
    message = fields.String(metadata={"description": "Text for people."})


class JobWebhookSchema(Schema):
    """What became of the job's webhook."""

    url = fields.String(metadata={"description": "Where it goes, without user, password and query."})
    status = fields.String(metadata={"enum": [str(state) for state in WebhookState]})
    tries = fields.Integer(metadata={"description": "Since the job ended, or since it was sent again by hand."})
    id = fields.String(metadata={"description": "The header `webhook-id`, the same at every try."})
    lastTryAt = fields.String(metadata={"description": "RFC 3339, UTC."})
    lastStatusCode = fields.Integer(metadata={"description": "What was answered, where something was."})
    lastError = fields.String(metadata={"description": "Why nothing was answered."})
    nextTryAt = fields.String(metadata={"description": "When it will be tried, while it is pending."})


class JobAttemptSchema(Schema):
    """One try of the job."""

    provider = fields.String(metadata={"description": "Who was asked to run it."})
    createdAt = fields.String(metadata={"description": "RFC 3339, UTC."})
    endedAt = fields.String()
    code = fields.String(
        metadata={
            "description": "Why it ended without the video: an error's code, `no_capacity` or `provider_unavailable`."
        }
    )
    reason = fields.String(metadata={"description": "The same as text for people."})


class JobSchema(Schema):
    """A job, in the one shape that it has everywhere."""

    jobId = fields.String(metadata={"description": "`job_` and a ULID."})
    operation = fields.String()
    status = fields.String(metadata={"enum": [str(status) for status in JobStatus]})
    progress = fields.Float(metadata={"description": "0 to 1."})
    statusUrl = fields.String(metadata={"description": "Where to ask again."})
    createdAt = fields.String(metadata={"description": "RFC 3339, UTC."})
    startedAt = fields.String(metadata={"description": "When a worker took it first."})
    finishedAt = fields.String()
    waitingFor = fields.String(metadata={"description": "Why a queued job has not started, where that is known."})
    attempts = fields.List(
        fields.Nested(JobAttemptSchema),
        metadata={
            "description": "Who was asked to run it, oldest first, and why the one before did not; the last ten."
        },
    )
    video_url = fields.String(
        metadata={"description": "The finished video; signed anew at every read. Left out once it has expired."}
    )
    expiresAt = fields.String(metadata={"description": "When the finished video is removed."})
    stats = fields.Nested(JobStatsSchema)
    error = fields.Nested(JobErrorSchema)
    webhook = fields.Nested(JobWebhookSchema)


class JobListSchema(Schema):
    jobs = fields.List(fields.Nested(JobSchema))
    nextCursor = fields.String(
        allow_none=True, metadata={"description": "Give it as `cursor` for the next page; null at the end."}
    )


class WaitSchema(Schema):
    """`?wait=N`, for clients that cannot set the header `Prefer: wait=N`."""

    wait = fields.Integer(
        validate=validate.Range(min=0),
        metadata={
            "description": "Hold the answer until the job has ended, at most so many seconds. Like `Prefer: wait=N`."
        },
    )


def job_response(job: Job, *, wait: int | None = None) -> Response:
    """202 with the job so far, or 200 once it has finished; waits where the client wishes and threads are left."""
    asked = _wait_s(wait)
    applied = None
    if asked and not job.finished:
        here = services()
        with here.thread_limits.waiting_for(job.key_id) as may_wait:
            if may_wait:
                applied = min(asked, here.settings.max_wait_seconds)
                job = _waited(job, applied)
    response = jsonify(services().documents.of(job))
    response.status_code = 200 if job.finished else 202
    response.headers["Location"] = f"/jobs/{job.id}"
    if job.status not in FINISHED:
        response.headers["Retry-After"] = str(_retry_after_s(job, services().clock.now_ms()))
    if applied is not None:
        response.headers["Preference-Applied"] = f"wait={applied}"
    return response


def _retry_after_s(job: Job, now: int) -> int:
    """Soon for what may end soon: what is left of a job that tells its progress, else a quarter of its age."""
    running = job.status is JobStatus.RUNNING and job.started_at is not None
    age_s = (now - (job.started_at if running and job.started_at else job.queued_at)) / 1000
    left_s = age_s * (1 - job.progress) / job.progress if running and job.progress else age_s / 4
    most_s = MOST_RETRY_RUNNING_S if running else MOST_RETRY_QUEUED_S
    return max(LEAST_RETRY_S, min(most_s, round(left_s)))


def _waited(job: Job, seconds: int) -> Job:
    try:
        return services().jobs.wait(job, seconds)
    except SQLAlchemyError as error:
        # The job is stored: whoever got an error now would send it once more.
        log.warning("wait.broken_off", job_id=job.id, error=repr(error))
        return job


def _wait_s(from_query: int | None) -> int:
    if from_query is not None:
        return from_query
    for part in request.headers.get("Prefer", "").split(","):
        if match := re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,6})"?\s*(;.*)?', part, re.IGNORECASE):
            return int(match[1])
    return services().settings.default_wait_seconds

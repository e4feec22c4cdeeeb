"""The shapes that clients see, and the waiting that several routes offer."""

from __future__ import annotations

import re
from typing import Any

import structlog
from flask import Response, jsonify, request
from marshmallow import Schema, fields, validate
from sqlalchemy.exc import SQLAlchemyError

from gateway.costs import usd
from gateway.jobs import FINISHED, Job, Status
from gateway.wiring import services
from wire.clock import to_rfc3339
from wire.envelope import StatsSchema
from wire.errors import CODES, JobError

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 2


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


class JobSchema(Schema):
    """A job, in the one shape that it has everywhere."""

    jobId = fields.String(metadata={"description": "`job_` and a ULID."})
    operation = fields.String()
    status = fields.String(metadata={"enum": [str(status) for status in Status]})
    progress = fields.Float(metadata={"description": "0 to 1."})
    statusUrl = fields.String(metadata={"description": "Where to ask again."})
    createdAt = fields.String(metadata={"description": "RFC 3339, UTC."})
    startedAt = fields.String(metadata={"description": "When a worker took it first."})
    finishedAt = fields.String()
    waitingFor = fields.String(metadata={"description": "Why a queued job has not started, where that is known."})
    video_url = fields.String(metadata={"description": "The finished video; signed anew at every read."})
    stats = fields.Nested(JobStatsSchema)
    error = fields.Nested(JobErrorSchema)


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


def job_document(job: Job) -> dict[str, Any]:
    """The job as clients see it; what it does not have is left out."""
    here = services()
    document: dict[str, Any] = {
        "jobId": job.id,
        "operation": job.operation,
        "status": str(job.status),
        "progress": round(job.progress, 4),
        "statusUrl": f"{here.settings.client_base}/jobs/{job.id}",
        "createdAt": to_rfc3339(job.created_at),
        "startedAt": to_rfc3339(job.started_at) if job.started_at else None,
        "finishedAt": to_rfc3339(job.finished_at) if job.finished_at else None,
        "waitingFor": job.waiting_for,
    }
    if job.status is Status.COMPLETED and job.output_key:
        expires_at = here.clock.now_ms() + here.settings.url_ttl_seconds * 1000
        document["video_url"] = here.storage.presign_get(job.output_key, expires_at=expires_at)
        document["stats"] = _stats(job)
    if job.status is Status.FAILED:
        document["error"] = {"code": job.error_code, "message": job.error_message}
    return {key: value for key, value in document.items() if value is not None}


def job_response(job: Job, *, wait: int | None = None) -> Response:
    """202 with the job so far, or 200 once it has finished; waits where the client wishes and threads are left."""
    asked = _wait_s(wait)
    applied = None
    if asked and not job.finished:
        here = services()
        with here.shares.waiting.held() as may_wait:
            if may_wait:
                applied = min(asked, here.settings.max_wait_seconds)
                job = _waited(job, applied)
    response = jsonify(job_document(job))
    response.status_code = 200 if job.finished else 202
    response.headers["Location"] = f"/jobs/{job.id}"
    if job.status not in FINISHED:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if applied is not None:
        response.headers["Preference-Applied"] = f"wait={applied}"
    return response


def _waited(job: Job, seconds: int) -> Job:
    try:
        return services().jobs.wait(job, seconds)
    except SQLAlchemyError as error:
        # The job is stored: whoever got an error now would send it once more.
        log.warning("wait.broken_off", job_id=job.id, error=repr(error))
        return job


def _stats(job: Job) -> dict[str, Any]:
    assert job.started_at is not None and job.finished_at is not None
    return {
        **(job.stats or {}),
        "queue_s": round((job.started_at - job.created_at) / 1000, 3),
        "total_s": round((job.finished_at - job.created_at) / 1000, 3),
        "tries": job.tries,
        "cost_usd": None if job.cost_nano is None else usd(job.cost_nano),
    }


def _wait_s(from_query: int | None) -> int:
    if from_query is not None:
        return from_query
    for part in request.headers.get("Prefer", "").split(","):
        if match := re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,6})"?\s*(;.*)?', part, re.IGNORECASE):
            return int(match[1])
    return services().settings.default_wait_seconds

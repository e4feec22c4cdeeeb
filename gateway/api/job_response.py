"""The response with a job, and the waiting that several routes offer."""

from __future__ import annotations

import re

import structlog
from flask import Response, jsonify, request
from marshmallow import Schema, fields, validate
from sqlalchemy.exc import SQLAlchemyError

from common.http_connection import away
from gateway.api.job_document import JobSchema
from gateway.domain.jobs import Job, JobStatus
from gateway.wiring import services

log = structlog.get_logger(__name__)

# Retry-After of an unfinished job: the minimum, and the maximum while it runs and while it waits.
MIN_RETRY_S = 1
MAX_RETRY_RUNNING_S, MAX_RETRY_QUEUED_S = 10, 30


class JobListSchema(Schema):
    jobs = fields.List(fields.Nested(JobSchema))
    nextCursor = fields.String(
        allow_none=True, metadata={"description": "The `cursor` of the next page; null on the last one."}
    )


class WaitSchema(Schema):
    """`?wait=N`, for clients that cannot set the header `Prefer: wait=N`."""

    wait = fields.Integer(
        validate=validate.Range(min=0),
        metadata={
            "description": "Hold the response until the job has ended, at most N seconds. Like `Prefer: wait=N`."
        },
    )


def job_response(job: Job, *, wait: int | None = None) -> Response:
    """202 with the unfinished job or 200 with the finished one, after waiting if requested and a thread is free."""
    asked = _wait_s(wait)
    applied = None
    if asked and not job.finished:
        here = services()
        with here.thread_limits.waiting.held(job.key_id) as may_wait:
            if may_wait:
                applied = min(asked, here.settings.max_wait_seconds)
                job = _waited(job, applied)
    response = jsonify(services().documents.of(job))
    response.status_code = 200 if job.finished else 202
    response.headers["Location"] = f"/jobs/{job.id}"
    if not job.finished:
        response.headers["Retry-After"] = str(_retry_after_s(job, services().clock.now_ms()))
    if applied is not None:
        response.headers["Preference-Applied"] = f"wait={applied}"
    return response


def _retry_after_s(job: Job, now: int) -> int:
    """The estimated remaining time if the progress is known, else a quarter of the job's age."""
    running = job.status is JobStatus.RUNNING and job.started_at is not None
    age_s = (now - (job.started_at if running and job.started_at else job.queued_at)) / 1000
    left_s = age_s * (1 - job.progress) / job.progress if running and job.progress else age_s / 4
    max_s = MAX_RETRY_RUNNING_S if running else MAX_RETRY_QUEUED_S
    return max(MIN_RETRY_S, min(max_s, round(left_s)))


def _waited(job: Job, seconds: int) -> Job:
    try:
        with away():
            return services().waiting_room.wait(job, seconds)
    except SQLAlchemyError as error:
        # The job is stored. After an error response the client would create it again.
        log.warning("wait.aborted", job_id=job.id, error=repr(error))
        return job


def _wait_s(from_query: int | None) -> int:
    if from_query is not None:
        return from_query
    for part in request.headers.get("Prefer", "").split(","):
        if match := re.fullmatch(r'\s*wait\s*=\s*"?(\d{1,6})"?\s*(;.*)?', part, re.IGNORECASE):
            return int(match[1])
    return services().settings.default_wait_seconds

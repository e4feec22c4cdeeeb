"""The response with a job, and the waiting that several routes offer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Response, jsonify, request
from marshmallow import fields, validate
from sqlalchemy.exc import SQLAlchemyError

from common.forgiving import HelpfulSchema
from common.http_connection import away
from gateway.api.job_document import JobSchema
from gateway.api.openapi.schemas import ResponseSchema
from gateway.api.problems import problem_of_job
from gateway.domain.jobs import Job, JobStatus
from gateway.wiring import services

log = structlog.get_logger(__name__)

# Retry-After of an unfinished job: the minimum, and the maximum while it runs and while it waits.
MIN_RETRY_S = 1
MAX_RETRY_RUNNING_S, MAX_RETRY_QUEUED_S = 10, 30


class JobListSchema(ResponseSchema):
    """Jobs, and where the next ones are."""

    jobs = fields.List(fields.Nested(JobSchema), required=True)
    nextCursor = fields.String(
        required=True, allow_none=True, metadata={"description": "The `cursor` of the next page; null on the last one."}
    )
    notFound = fields.List(
        fields.String(), metadata={"description": "With `id`: those of the ids for which you have no job."}
    )


# Created once, because creating it takes longer than using it.
_JOB_LIST = JobListSchema()


class ValidParamsSchema(ResponseSchema):
    """The params of a valid request."""

    params = fields.Dict(
        keys=fields.String(), required=True, metadata={"description": "With defaults, numbers as numbers."}
    )


class WaitSchema(HelpfulSchema):
    """`?wait=N`, for clients that cannot set the header `Prefer`."""

    wait = fields.Integer(
        validate=validate.Range(min=0),
        metadata={
            "description": "Hold the response until the job has ended, at most N seconds. Like `Prefer: wait=N`."
        },
    )


class JobQuerySchema(WaitSchema):
    strict = fields.Boolean(
        metadata={
            "description": "Whether a job that failed or was cancelled is an error: 422 where the job is to blame, 502 "
            "where it is not, 409 if it was cancelled. Like `Prefer: handling=strict`."
        },
    )


def job_response(job: Job, query: Mapping[str, Any]) -> Response:
    """202 with the unfinished job or 200 with the finished one, after waiting if requested and a thread is free.

    `query` is loaded by JobQuerySchema. With strict handling, a job that ended without success is a problem.
    """
    [job], applied = _wait([job], query)
    strict = query.get("strict")
    if strict is None and (strict := _preference("handling", "strict") is not None):
        applied.append("handling=strict")
    document = services().documents.of(job)
    if strict and job.finished and job.status is not JobStatus.COMPLETED:
        response = problem_of_job(job, document)
    else:
        response = jsonify(document)
        response.status_code = 200 if job.finished else 202
    response.headers["Location"] = f"/jobs/{job.id}"
    return _with_headers(response, [job], applied)


def jobs_response(jobs: list[Job], not_found: list[str], query: Mapping[str, Any]) -> Response:
    """202 with the jobs if any is unfinished, else 200, after waiting for all if requested and a thread is free."""
    applied: list[str] = []
    if jobs:
        jobs, applied = _wait(jobs, query)
    page = {"jobs": services().documents.views(jobs), "nextCursor": None, "notFound": not_found}
    response = jsonify(_JOB_LIST.dump(page))
    response.status_code = 200 if all(job.finished for job in jobs) else 202
    return _with_headers(response, jobs, applied)


def _with_headers(response: Response, jobs: list[Job], applied: list[str]) -> Response:
    now = services().clock.now_ms()
    if unfinished := [job for job in jobs if not job.finished]:
        response.headers["Retry-After"] = str(min(_retry_after_s(job, now) for job in unfinished))
    if applied:
        response.headers["Preference-Applied"] = ", ".join(applied)
    return response


def _retry_after_s(job: Job, now: int) -> int:
    """The estimated remaining time if the progress is known, else a quarter of the job's age."""
    running = job.status is JobStatus.RUNNING and job.started_at is not None
    age_s = (now - (job.started_at if running and job.started_at else job.queued_at)) / 1000
    left_s = age_s * (1 - job.progress) / job.progress if running and job.progress else age_s / 4
    max_s = MAX_RETRY_RUNNING_S if running else MAX_RETRY_QUEUED_S
    return max(MIN_RETRY_S, min(max_s, round(left_s)))


def _wait(jobs: list[Job], query: Mapping[str, Any]) -> tuple[list[Job], list[str]]:
    """The jobs after waiting for all of them as requested, and the preferences that were applied."""
    here, asked_s = services(), _wait_s(query.get("wait"))
    if not asked_s or all(job.finished for job in jobs):
        return jobs, []
    with here.thread_limits.waiting.held(jobs[0].key_id) as may_wait:
        if not may_wait:
            return jobs, []
        seconds = min(asked_s, here.settings.max_wait_seconds)
        return _waited(jobs, seconds), [f"wait={seconds}"]


def _waited(jobs: list[Job], seconds: int) -> list[Job]:
    try:
        with away():
            return services().waiting_room.wait(jobs, seconds)
    except SQLAlchemyError as error:
        # The jobs are stored. After an error response the client would create them again.
        log.warning("wait.aborted", job_ids=[job.id for job in jobs], error=repr(error))
        return jobs


def _wait_s(from_query: int | None) -> int:
    if from_query is not None:
        return from_query
    preferred = _preference("wait", r"\d{1,6}")
    return services().settings.default_wait_seconds if preferred is None else int(preferred)


def _preference(name: str, value: str) -> str | None:
    """The first value of the preference `name` in the header `Prefer` that fits the pattern `value`."""
    for part in request.headers.get("Prefer", "").split(","):
        if match := re.fullmatch(rf'\s*{name}\s*=\s*"?({value})"?\s*(;.*)?', part, re.IGNORECASE):
            return match[1]
    return None

"""`POST /video/<operation>`: a route for every operation, created from its definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, g, request
from marshmallow import fields

from common import safe_http
from common.http_connection import away
from ffmpeg_ops.operation import OPERATIONS, Operation
from gateway.api import callers, job_request
from gateway.api.blueprint import Blueprint, check_json, read_json
from gateway.api.body_process import LARGE_BODY
from gateway.api.job_document import JobSchema
from gateway.api.job_request import JobRequest
from gateway.api.job_response import JobQuerySchema, job_response
from gateway.api.openapi import examples, headers
from gateway.domain.jobs import JobStatus
from gateway.errors import (
    BodiesBusy,
    BodyTimeout,
    IdempotencyMismatch,
    JobCancelled,
    NotFound,
    SpendingLimit,
    StorageLow,
    TooManyBytes,
    TooManyJobs,
    ValidationFailed,
)
from gateway.wiring import services

MAX_IDEMPOTENCY_KEY = 255
# How long a request with a large body waits for its place, unread: a refused client would only ask again.
PLACE_S = 10.0


class CreateSchema(JobQuerySchema):
    only_validate = fields.Boolean(
        data_key="validate",
        load_default=False,
        metadata={
            "description": "Only check the request: 200 with `params` as they would be used, or 422. Nothing is "
            "fetched, no job is made, and no quota is used."
        },
    )


_REFUSALS = (
    IdempotencyMismatch,
    NotFound,
    StorageLow,
    TooManyJobs,
    TooManyBytes,
    SpendingLimit,
    JobCancelled,
    BodiesBusy,
    BodyTimeout,
)
_HEADERS = [
    {
        "in": "header",
        "name": "Prefer",
        "schema": {"type": "string"},
        "description": "`wait=N` holds the response until the job has ended, at most N seconds; `handling=strict` "
        "makes a job that failed an error.",
    },
    {
        "in": "header",
        "name": "Idempotency-Key",
        "schema": {"type": "string", "maxLength": MAX_IDEMPOTENCY_KEY},
        "description": "A repeated request with the same key and body returns the same job, for a day by default.",
    },
]


def blueprint() -> Blueprint:
    """Create a route for every operation."""
    here = Blueprint("video", __name__, url_prefix="/video", description="Make a video")
    for operation in OPERATIONS.values():
        route = here.route(f"/{operation.name}", methods=["POST"], endpoint=operation.name, parameters=_HEADERS)
        route(_view(here, operation))
    return here


def _view(here: Blueprint, operation: Operation) -> Callable[..., Response]:
    summary, _, description = operation.doc.partition("\n\n")
    bodies = {f"example{i}": {"value": dict(value)} for i, value in enumerate(operation.examples, 1)}
    finished = examples.of_jobs(JobStatus.COMPLETED, operation=operation) | examples.of_params(operation)

    @here.arguments(CreateSchema, location="query")
    @here.documents(job_request.schema(operation), examples=bodies)
    @here.doc(operationId=operation.name, summary=summary, description=description)
    @here.response(
        202,
        JobSchema,
        description="The job, accepted",
        headers=headers.OF_JOB,
        examples=examples.of_jobs(JobStatus.QUEUED, operation=operation),
    )
    @here.alt_response(
        200,
        schema={"$ref": "#/components/schemas/JobOrParams"},
        description="The finished job; or, with `validate`, the params",
        headers=headers.OF_JOB,
        examples=finished,
        success=True,
    )
    @here.refuses(*_REFUSALS, failed_jobs=True)
    def view(query: dict[str, Any]) -> Response:
        return _create(_read(operation.name, defaults=query["only_validate"]), query)

    return view  # type: ignore[no-any-return]


def _create(body: JobRequest, query: dict[str, Any]) -> Response:
    here = services()
    webhook_url = body.fields.get("webhook_url")
    if webhook_url and safe_http.names_inside_address(webhook_url, here.settings.webhook_allow_origins):
        reason = "The address is not public. An operator can allow it by its origin in WEBHOOK_ALLOW_ORIGINS."
        raise ValidationFailed(f"webhook_url: {reason}", errors={"webhook_url": [reason]})
    idempotency_key = _idempotency_key()
    if query["only_validate"]:
        return Response(f'{{"params":{body.params}}}\n', mimetype="application/json")
    callers.end_turn()  # what is left is little work
    with away():  # it waits for the disk, and jobs that are created together share a commit
        job = here.jobs.create(g.key_id, body, idempotency_key)
    return job_response(job, query)


def _read(operation: str, *, defaults: bool) -> JobRequest:
    """Read the request's body; a large one in another process, while this thread lends its place."""
    check_json(request)
    chunked = request.content_length is None and "Transfer-Encoding" in request.headers
    if not chunked and (request.content_length or 0) <= LARGE_BODY:
        return job_request.read(operation, read_json(request), defaults=defaults)
    here = services()
    places = here.thread_limits.large_bodies
    with away():
        held = places.take(g.key_id, PLACE_S)
    if not held:
        raise BodiesBusy
    try:
        data = read_json(request)
        if len(data) <= LARGE_BODY:
            return job_request.read(operation, data, defaults=defaults)
        with away():
            return here.body_process.read(operation, data, g.key_id, defaults=defaults)
    finally:
        places.give_back(g.key_id)


def _idempotency_key() -> str | None:
    """The header's value, without the quotes that the draft standard requires."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    key = key.strip().removeprefix('"').removesuffix('"')
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        reason = f"Must have 1 to {MAX_IDEMPOTENCY_KEY} characters."
        raise ValidationFailed(f"Idempotency-Key: {reason}", errors={"Idempotency-Key": [reason]})
    return key

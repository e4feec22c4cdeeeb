"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask, Response, g, json, request
from flask_smorest import Api
from gunicorn.http.errors import ParseException
from marshmallow import fields
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from common.suggestions import OPERATION_GUESSES, nearest
from ffmpeg_ops.operation import OPERATIONS
from gateway import errors
from gateway.api.job_document import JobSchema
from gateway.api.openapi.schemas import ResponseSchema
from gateway.domain.jobs import Job, JobStatus
from gateway.storage import StorageFullError, StorageUnavailable
from wire.errors import CODES, JobFault, QueueTimeout, WorkerError

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

# Of a failed job in a strict response.
STATUS_OF_OWN_FAULT, STATUS_OF_OUR_FAILURE = 422, 502

# What Flask, werkzeug and webargs raise themselves, apart from 400 and 5xx.
_OF_THE_FRAMEWORK = (
    errors.NotFound,
    errors.MethodNotAllowed,
    errors.PayloadTooLarge,
    errors.UnsupportedMediaType,
    errors.RangeNotSatisfiable,
    errors.ValidationFailed,
)
RETRY_AFTER_S = 2
_RETRY = frozenset({503, 507})


class ProblemSchema(ResponseSchema):
    """An error."""

    type = fields.String(
        required=True,
        metadata={
            "format": "uri-reference",
            "description": "`/errors/<code>`, the same for every error with this code.",
        },
    )
    title = fields.String(
        required=True, metadata={"description": "What the code means, for people. The same for every such error."}
    )
    detail = fields.String(metadata={"description": "What is wrong with this request, if more is known."})
    status = fields.Integer(required=True, metadata={"description": "The HTTP status."})
    code = fields.String(
        required=True,
        metadata={
            "enum": sorted(CODES),
            "description": "What went wrong, for programs: `GET /errors/{code}` explains.",
        },
    )
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"description": "With `validation_failed`: why each field is wrong, by its path."},
    )
    job = fields.Nested(
        JobSchema, metadata={"description": "With strict handling: the job that failed or was cancelled."}
    )
    requestId = fields.String(required=True, metadata={"description": "Identifies the request in the server's log."})


class ProblemApi(Api):  # type: ignore[misc]
    """flask-smorest with problem documents for errors."""

    ERROR_SCHEMA = ProblemSchema
    DEFAULT_ERROR_RESPONSE_NAME = "OtherError"

    def handle_http_exception(self, error: HTTPException) -> Response:
        response = problem(_translate(error))
        # Allow of a 405, Content-Range of a 416
        response.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
        return response

    def _register_responses(self) -> None:
        """Document the response for errors that a route does not document itself."""
        example = {"$ref": f"#/components/examples/{errors.InternalError.code}"}
        content = {MEDIA_TYPE: {"schema": self.ERROR_SCHEMA, "examples": {errors.InternalError.code: example}}}
        response = {"description": "Any other error", "content": content}
        self.spec.components.response(self.DEFAULT_ERROR_RESPONSE_NAME, response, lazy=True)


def register(app: Flask) -> None:
    """Return a problem document for every error that a view raises."""
    app.register_error_handler(errors.RequestError, problem)
    app.register_error_handler(Exception, _unexpected)


def problem(error: errors.RequestError) -> Response:
    """Make the response for `error`."""
    more = {"errors": error.errors} if isinstance(error, errors.ValidationFailed) else {}
    response = _response(error.status, error.code, error.text, error.message, more)
    retry_after_s = error.retry_after_s or (RETRY_AFTER_S if error.status in _RETRY else None)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def problem_of_job(job: Job, shown: Mapping[str, Any]) -> Response:
    """Make the response for a job that failed or was cancelled; `shown` is the job as clients see it."""
    if job.status is JobStatus.CANCELLED:
        cancelled = errors.JobCancelled
        return _response(cancelled.status, cancelled.code, cancelled.text, None, {"job": shown})
    cls = CODES.get(job.error_code or "", WorkerError)
    # Finding a worker is the gateway's task.
    own_fault = issubclass(cls, JobFault) and cls is not QueueTimeout
    status = STATUS_OF_OWN_FAULT if own_fault else STATUS_OF_OUR_FAILURE
    return _response(status, cls.code, cls.text, job.error_message, {"job": shown})


def document(
    status: int, code: str, title: str, detail: str | None, more: Mapping[str, Any], request_id: str
) -> dict[str, Any]:
    """The document of an error."""
    known = {"detail": detail} if detail and detail != title else {}
    head = {"type": f"/errors/{code}", "title": title, **known, "status": status, "code": code}
    return {**head, **more, "requestId": request_id}


def _response(status: int, code: str, title: str, detail: str | None, more: Mapping[str, Any]) -> Response:
    text = json.dumps(document(status, code, title, detail, more, g.get("request_id")))
    return Response(text, status, mimetype=MEDIA_TYPE)


def _translate(error: HTTPException) -> errors.RequestError:
    messages = getattr(error, "data", {}).get("messages")
    if error.code == 422 and messages:
        (located,) = messages.values()  # by location: `json` or `query`
        return errors.ValidationFailed.of(located)
    if error.code == 400 and messages:
        return errors.MalformedBody()
    if error.code is not None and error.code >= 500:
        return errors.InternalError()
    known = next((known for known in _OF_THE_FRAMEWORK if known.status == error.code), errors.BadRequest)
    return known(_hint(error))


def _hint(error: HTTPException) -> str | None:
    """What the client probably meant, for an unknown operation or method."""
    if isinstance(error, MethodNotAllowed):
        return f"It supports {', '.join(sorted(set(error.valid_methods or ()) - {'HEAD', 'OPTIONS'}))}."
    folder, _, name = request.path.strip("/").rpartition("/")
    if error.code != 404 or folder != "video":
        return None
    meant = nearest(name, OPERATIONS, OPERATION_GUESSES)
    return (
        f"There is no such operation. {f'Did you mean `{meant}`? ' if meant else ''}Known are: {', '.join(OPERATIONS)}."
    )


def _unexpected(error: Exception) -> Response:
    match error:
        case SQLAlchemyError():
            log.error("database.failed", error=repr(error.__cause__ or error))
            return problem(errors.ServiceUnavailable())
        case StorageUnavailable():
            log.error("storage.failed", reason=str(error))
            return problem(errors.ServiceUnavailable())
        case StorageFullError():
            log.error("storage.full")
            return problem(errors.StorageLow())
        case ParseException():  # the server parses chunks only while a view reads them
            return problem(errors.BadRequest("The chunked body is malformed."))
    log.exception("request.failed")
    return problem(errors.InternalError())

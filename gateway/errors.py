"""Why an HTTP request is refused, as one tree. Each class names its HTTP status.

RequestError
├── BadRequest         MalformedBody      BodyTooComplex       Unauthorized         SpendingLimit
├── MissingScope       SignatureInvalid   NotFound             MethodNotAllowed
├── JobFinished        JobNotFinished     NoWebhook            AttemptSuperseded
├── LengthRequired     PayloadTooLarge    UnsupportedMediaType FileNotMedia         RangeNotSatisfiable
├── ValidationFailed   IdempotencyMismatch    RateLimited      TooManyJobs
└── InternalError      ServiceUnavailable TransfersBusy        StorageLow
"""

from __future__ import annotations

from typing import ClassVar

from wire.errors import ReelayError


class RequestError(ReelayError):
    """An HTTP request is refused. `status`: the HTTP status; `retry_after_s`: when it may be repeated, if known."""

    status: ClassVar[int] = 400
    retry_after_s: int | None = None

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s or self.retry_after_s


class Unauthorized(RequestError):
    status = 401
    code = "unauthorized"
    text = "The request needs a valid key in the header X-API-Key."


class MissingScope(RequestError):
    status = 403
    code = "missing_scope"
    text = "The key is valid, but may not do this: it lacks the scope that this address needs."


class RateLimited(RequestError):
    status = 429
    code = "rate_limited"
    text = "Too many requests. Try again after the time in Retry-After."


class TooManyJobs(RequestError):
    status = 429
    code = "too_many_jobs"
    text = "The key has as many unfinished jobs as it may have. Try again when some have ended."


class SpendingLimit(RequestError):
    status = 402
    code = "spending_limit"
    text = "The key has reached its spending limit for today (UTC), or its unfinished jobs are going to."


class SignatureInvalid(RequestError):
    status = 403
    code = "signature_invalid"
    text = "The URL's signature is missing, wrong or expired. Read the job again for a fresh URL."


class NotFound(RequestError):
    status = 404
    code = "not_found"
    text = "There is nothing at this address."


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"
    text = "This address does not take that method."


class BadRequest(RequestError):
    status = 400
    code = "bad_request"
    text = "The request could not be understood."


class ValidationFailed(RequestError):
    status = 422
    code = "validation_failed"
    text = "One or more fields are not valid."

    def __init__(self, message: str | None = None, *, errors: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or {}


class MalformedBody(RequestError):
    status = 400
    code = "malformed_body"
    text = "The body is not valid JSON."


class BodyTooComplex(RequestError):
    status = 400
    code = "body_too_complex"
    text = "The body is nested too deeply, or an object in it has too many fields."


class PayloadTooLarge(RequestError):
    status = 413
    code = "payload_too_large"
    text = "The body is larger than this address takes."


class LengthRequired(RequestError):
    status = 411
    code = "length_required"
    text = "The request must say the length of its body (Content-Length)."


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"
    text = "The body must be JSON, with the header Content-Type: application/json."


class FileNotMedia(RequestError):
    status = 415
    code = "file_not_media"
    text = "The file is no video, audio, image or subtitles that a job could use."


class JobFinished(RequestError):
    status = 409
    code = "job_finished"
    text = "The job has already ended."


class JobNotFinished(RequestError):
    status = 409
    code = "job_not_finished"
    text = "The job has not ended yet."


class NoWebhook(RequestError):
    status = 409
    code = "no_webhook"
    text = "The job was made without webhook_url."


class AttemptSuperseded(RequestError):
    status = 409
    code = "attempt_superseded"
    text = "The attempt is no longer wanted: it was superseded, cancelled, or claimed by another worker."


class IdempotencyMismatch(RequestError):
    status = 422
    code = "idempotency_mismatch"
    text = "The Idempotency-Key was used before with a different request."


class RangeNotSatisfiable(RequestError):
    status = 416
    code = "range_not_satisfiable"
    text = "The requested range lies outside the file."


class TransfersBusy(RequestError):
    status = 503
    code = "transfers_busy"
    text = "Too many file transfers at the moment. Try again shortly."


class StorageLow(RequestError):
    status = 507
    code = "storage_low"
    text = "The server is low on disk space and takes no new files or jobs."


class ServiceUnavailable(RequestError):
    status = 503
    code = "service_unavailable"
    text = "The server cannot do this at the moment. Try again shortly."


class InternalError(RequestError):
    status = 500
    code = "internal_error"
    text = "Something went wrong on the server. The request id helps to find it in the log."

"""The errors of the HTTP API as one tree. Each class has its HTTP status.

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
    """An HTTP request is refused."""

    #: HTTP status.
    status: ClassVar[int] = 400
    #: Seconds after which the request may be repeated; None if unknown.
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
    text = "The key is valid, but may not do this: it lacks the scope that this route needs."


class RateLimited(RequestError):
    status = 429
    code = "rate_limited"
    text = "Too many requests. Try again after the time in Retry-After."


class TooManyJobs(RequestError):
    status = 429
    code = "too_many_jobs"
    text = "The key has reached its maximum number of unfinished jobs. Try again when some have ended."


class SpendingLimit(RequestError):
    status = 402
    code = "spending_limit"
    text = "The key has reached its spending limit for today (UTC), or its unfinished jobs will reach it."


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
    text = "This route does not support the method."


class BadRequest(RequestError):
    status = 400
    code = "bad_request"
    text = "The request could not be understood."


class ValidationFailed(RequestError):
    status = 422
    code = "validation_failed"
    text = "One or more fields are not valid."

    def __init__(self, message: str | None = None, *, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        #: Reasons by the path of the field.
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
    text = "The body is larger than this route accepts."


class LengthRequired(RequestError):
    status = 411
    code = "length_required"
    text = "The request must give the length of its body (Content-Length)."


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"
    text = "The body must be JSON, with the header Content-Type: application/json."


class FileNotMedia(RequestError):
    status = 415
    code = "file_not_media"
    text = "The file is not a video, audio, image or subtitle file that a job could use."


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
    text = "The job was created without webhook_url."


class AttemptSuperseded(RequestError):
    status = 409
    code = "attempt_superseded"
    text = "The attempt is no longer valid: it was superseded, cancelled, or claimed by another worker."


class IdempotencyMismatch(RequestError):
    status = 422
    code = "idempotency_mismatch"
    text = "The Idempotency-Key was used before with a different request."


class RangeNotSatisfiable(RequestError):
    status = 416
    code = "range_not_satisfiable"
    text = "The requested range is outside the file."


class TransfersBusy(RequestError):
    status = 503
    code = "transfers_busy"
    text = "Too many file transfers at the moment. Try again shortly."


class StorageLow(RequestError):
    status = 507
    code = "storage_low"
    text = "The server is low on disk space and accepts no new files or jobs."


class ServiceUnavailable(RequestError):
    status = 503
    code = "service_unavailable"
    text = "The server cannot do this at the moment. Try again shortly."


class InternalError(RequestError):
    status = 500
    code = "internal_error"
    text = "An unexpected error on the server. The request id identifies it in the log."

"""The errors of the HTTP API as one tree. Each class has its HTTP status.

RequestError
├── BadRequest         MalformedBody      BodyTooComplex       Unauthorized         SpendingLimit
├── MissingScope       SignatureInvalid   NotFound             MethodNotAllowed
├── JobFinished        JobNotFinished     JobCancelled         NoWebhook            AttemptSuperseded
├── LengthRequired     PayloadTooLarge    UnsupportedMediaType FileNotMedia         RangeNotSatisfiable
├── ValidationFailed   IdempotencyMismatch    RateLimited      TooManyJobs
├── TransfersBusy      BodiesBusy         BodyTimeout          StorageLow
└── InternalError      ServiceUnavailable
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Self

from common.validation import flatten
from wire.errors import ReelayError

# Maximum number of wrong fields that are listed: an error in every item of a long list would fill megabytes.
MAX_ERRORS = 100


class RequestError(ReelayError):
    """An HTTP request is refused."""

    #: HTTP status.
    status: ClassVar[int] = 400
    #: Seconds after which the request may be repeated; None if unknown.
    retry_after_s: int | None = None

    def __init_subclass__(cls, *, code: str = "", status: int = 400) -> None:
        super().__init_subclass__(code=code)
        cls.status = status

    def __init__(self, message: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s or self.retry_after_s


class Unauthorized(RequestError, code="unauthorized", status=401):
    """The request needs a valid key in the header X-API-Key, or in Authorization as Bearer."""


class MissingScope(RequestError, code="missing_scope", status=403):
    """The key is valid, but may not do this: it lacks the scope that this route needs."""


class RateLimited(RequestError, code="rate_limited", status=429):
    """Too many requests. Try again after the time in Retry-After."""


class TooManyJobs(RequestError, code="too_many_jobs", status=429):
    """The key has reached its maximum number of unfinished jobs. Try again when some have ended."""


class SpendingLimit(RequestError, code="spending_limit", status=402):
    """The key has reached its spending limit for today (UTC), or its unfinished jobs will reach it."""


class SignatureInvalid(RequestError, code="signature_invalid", status=403):
    """The URL's signature is missing, wrong or expired. Read the job again for a fresh URL."""


class NotFound(RequestError, code="not_found", status=404):
    """There is nothing at this address."""


class MethodNotAllowed(RequestError, code="method_not_allowed", status=405):
    """This route does not support the method."""


class BadRequest(RequestError, code="bad_request"):
    """The request could not be understood."""


class ValidationFailed(RequestError, code="validation_failed", status=422):
    """One or more fields are not valid."""

    def __init__(self, message: str | None = None, *, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        #: Reasons by the path of the field.
        self.errors = errors or {}

    @classmethod
    def of(cls, messages: object) -> Self:
        """The error for marshmallow's messages, of which the first MAX_ERRORS are listed."""
        found = dict(islice(flatten(messages).items(), MAX_ERRORS))
        reasons = "; ".join(f"{path}: {first}" for path, (first, *_) in found.items())
        return cls(reasons, errors=found)


class MalformedBody(RequestError, code="malformed_body"):
    """The body is not valid JSON."""


class BodyTooComplex(RequestError, code="body_too_complex"):
    """The body is nested too deeply, or an object in it has too many fields."""


class PayloadTooLarge(RequestError, code="payload_too_large", status=413):
    """The body is larger than this route accepts."""


class LengthRequired(RequestError, code="length_required", status=411):
    """The request must give the length of its body (Content-Length)."""


class UnsupportedMediaType(RequestError, code="unsupported_media_type", status=415):
    """The body must be JSON, with the header Content-Type: application/json."""


class FileNotMedia(RequestError, code="file_not_media", status=415):
    """The file is not a video, audio, image or subtitle file that a job could use."""


class JobFinished(RequestError, code="job_finished", status=409):
    """The job has already ended."""


class JobNotFinished(RequestError, code="job_not_finished", status=409):
    """The job has not ended yet."""


class JobCancelled(RequestError, code="job_cancelled", status=409):
    """The job was cancelled. Only requests with strict handling get this."""


class NoWebhook(RequestError, code="no_webhook", status=409):
    """The job was created without webhook_url."""


class AttemptSuperseded(RequestError, code="attempt_superseded", status=409):
    """The attempt is no longer valid: it was superseded, cancelled, or claimed by another worker."""


class IdempotencyMismatch(RequestError, code="idempotency_mismatch", status=422):
    """The Idempotency-Key was used before with a different request."""


class RangeNotSatisfiable(RequestError, code="range_not_satisfiable", status=416):
    """The requested range is outside the file."""


class TransfersBusy(RequestError, code="transfers_busy", status=503):
    """Too many file transfers at the moment. Try again shortly."""


class BodiesBusy(RequestError, code="bodies_busy", status=503):
    """Too many large request bodies of this key at the moment. Try again shortly."""


class BodyTimeout(RequestError, code="body_timeout", status=503):
    """Checking the body took too long. Try again shortly, or send a smaller one."""


class StorageLow(RequestError, code="storage_low", status=507):
    """The server is low on disk space and accepts no new files or jobs."""


class ServiceUnavailable(RequestError, code="service_unavailable", status=503):
    """The server cannot do this at the moment. Try again shortly."""


class InternalError(RequestError, code="internal_error", status=500):
    """An unexpected error on the server. The request id identifies it in the log."""

"""The errors of the HTTP API as one tree. Each class has its HTTP status.

RequestError
├── BadRequest         MalformedBody      BodyTooComplex       Unauthorized         SpendingLimit
├── MissingScope       SignatureInvalid   NotFound             MethodNotAllowed
├── JobFinished        JobNotFinished     JobCancelled         NoWebhook            AttemptSuperseded
├── LengthRequired     PayloadTooLarge    UnsupportedMediaType FileNotMedia         RangeNotSatisfiable
├── ValidationFailed   IdempotencyMismatch    RateLimited      TooManyJobs          TooManyBytes
├── TransfersBusy      BodiesBusy         BodyTimeout          StorageLow
└── InternalError      ServiceUnavailable
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Self

from common.suggestions import UnknownField
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
    """The request needs a valid key in the header X-API-Key, or in Authorization as Bearer.

    Send the key that the operator made with `keys create`. A revoked or rotated key no longer works.
    """


class MissingScope(RequestError, code="missing_scope", status=403):
    """The key is valid, but may not do this: it lacks the scope that this route needs.

    Use a key with the scope that `detail` names, or ask the operator for one.
    """


class RateLimited(RequestError, code="rate_limited", status=429):
    """Too many requests. Try again after the time in Retry-After.

    Send fewer requests: wait for jobs with `Prefer: wait`, read many with `GET /jobs?id=…&id=…`, or use a webhook.
    """


class TooManyJobs(RequestError, code="too_many_jobs", status=429):
    """The key has reached its maximum number of unfinished jobs. Try again when some have ended.

    Wait until some have ended, or ask the operator to raise MAX_JOBS_PER_KEY.
    """


class TooManyBytes(RequestError, code="too_many_bytes", status=429):
    """The key's unfinished jobs or its uploads occupy as many bytes as they may; `detail` says which.

    Wait until jobs have ended or uploads were removed, cancel jobs, or ask the operator to raise
    MAX_PARAMS_BYTES_PER_KEY or MAX_UPLOAD_BYTES_PER_KEY.
    """


class SpendingLimit(RequestError, code="spending_limit", status=402):
    """The key has reached its spending limit for today (UTC), or its unfinished jobs will reach it.

    Wait for the time in Retry-After, or ask the operator to raise DAILY_SPENDING_LIMIT_USD.
    """


class SignatureInvalid(RequestError, code="signature_invalid", status=403):
    """The URL's signature is missing, wrong or expired. Read the job again for a fresh URL.

    Read the job again and use the URL as it is, with its whole query.
    """


class NotFound(RequestError, code="not_found", status=404):
    """There is nothing at this address.

    Check the path. A job or file that was there has been removed after its retention time.
    """


class MethodNotAllowed(RequestError, code="method_not_allowed", status=405):
    """This route does not support the method.

    Use a method that the header Allow names.
    """


class BadRequest(RequestError, code="bad_request"):
    """The request could not be understood.

    `detail` says what is wrong. Otherwise compare the request with the examples at `/docs/`.
    """


class ValidationFailed(RequestError, code="validation_failed", status=422):
    """One or more fields are not valid.

    Correct the fields in `errors`. With `?validate=true` a request is checked without making a job.
    """

    def __init__(self, message: str | None = None, *, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        #: Reasons by the path of the field.
        self.errors = errors or {}

    @classmethod
    def of(cls, messages: object) -> Self:
        """The error for marshmallow's messages, of which the first MAX_ERRORS are listed."""
        found: dict[str, list[str]] = {}
        for path, reasons in islice(flatten(messages).items(), MAX_ERRORS):
            found[path] = [reason.explained() if isinstance(reason, UnknownField) else reason for reason in reasons]
        return cls("; ".join(f"{path}: {first}" for path, (first, *_) in found.items()), errors=found)


class MalformedBody(RequestError, code="malformed_body"):
    """The body is not valid JSON.

    Send one JSON object in UTF-8, with double quotes and without a comma at the end of a list or object.
    """


class BodyTooComplex(RequestError, code="body_too_complex"):
    """The body is nested too deeply, or an object in it has too many fields.

    Send flatter params. Texts may be long; objects may not be nested deeply.
    """


class PayloadTooLarge(RequestError, code="payload_too_large", status=413):
    """The body is larger than this route accepts.

    Send a smaller file or body. Files need not pass the gateway: a job fetches any public URL.
    """


class LengthRequired(RequestError, code="length_required", status=411):
    """The request must give the length of its body (Content-Length).

    Let the client send the whole file at once instead of in chunks of unknown number.
    """


class UnsupportedMediaType(RequestError, code="unsupported_media_type", status=415):
    """The body must be JSON, with the header Content-Type: application/json.

    Set the header that the message names. With curl: -H "Content-Type: application/json".
    """


class FileNotMedia(RequestError, code="file_not_media", status=415):
    """The file is not a video, audio, image, subtitle or font file that a job could use.

    Upload the file itself, not a web page, an archive or an error message in its place.
    """


class JobFinished(RequestError, code="job_finished", status=409):
    """The job has already ended.

    Nothing to do: read the job for its result.
    """


class JobNotFinished(RequestError, code="job_not_finished", status=409):
    """The job has not ended yet.

    Wait for its end, with `Prefer: wait` or the webhook itself.
    """


class JobCancelled(RequestError, code="job_cancelled", status=409):
    """The job was cancelled. Only requests with strict handling get this.

    Create the job again if it is still wanted.
    """


class NoWebhook(RequestError, code="no_webhook", status=409):
    """The job was created without webhook_url.

    Give `webhook_url` when you create the job.
    """


class AttemptSuperseded(RequestError, code="attempt_superseded", status=409):
    """The attempt is no longer valid: it was superseded, cancelled, or claimed by another worker.

    Nothing to do for a client. A worker drops the attempt.
    """


class IdempotencyMismatch(RequestError, code="idempotency_mismatch", status=422):
    """The Idempotency-Key was used before with a different request.

    Use a new Idempotency-Key for a new request, and repeat a request unchanged.
    """


class RangeNotSatisfiable(RequestError, code="range_not_satisfiable", status=416):
    """The requested range is outside the file.

    Ask for a range within the size that Content-Range names.
    """


class TransfersBusy(RequestError, code="transfers_busy", status=503):
    """Too many file transfers at the moment. Try again shortly.

    Repeat the request after the time in Retry-After, and transfer fewer files at a time.
    """


class BodiesBusy(RequestError, code="bodies_busy", status=503):
    """Too many large request bodies of this key at the moment. Try again shortly.

    Repeat the request after the time in Retry-After, and send fewer large bodies at a time.
    """


class BodyTimeout(RequestError, code="body_timeout", status=503):
    """Checking the body took too long. Try again shortly, or send a smaller one.

    Repeat the request after the time in Retry-After, with fewer words or cues, or with subtitles as a file by URL.
    """


class StorageLow(RequestError, code="storage_low", status=507):
    """The server is low on disk space and accepts no new files or jobs.

    Repeat the request later. The operator frees space on the disk of DATA_DIR, or shortens the retention.
    """


class ServiceUnavailable(RequestError, code="service_unavailable", status=503):
    """The server cannot do this at the moment. Try again shortly.

    Repeat the request after the time in Retry-After, with the same Idempotency-Key. `/ready` says what fails.
    """


class InternalError(RequestError, code="internal_error", status=500):
    """An unexpected error on the server. The request id identifies it in the log.

    Repeat the request with the same Idempotency-Key. If it fails again, give the operator the request id.
    """

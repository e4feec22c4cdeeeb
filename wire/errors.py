"""Everything that can go wrong, as one tree with one list of codes.

    ReelayError
    ├── JobError                    ends an attempt
    │   ├── GatewayError            a bug of ours
    │   ├── JobFault                the job's own fault: never tried again
    │   │   ├── InvalidParams       AssetForbidden    AssetNotFound    AssetUnavailable
    │   │   ├── AssetTooLarge       AssetEmpty        AssetInvalid     AssetHasNoAudio
    │   │   └── OutputTooLarge      JobTimeout        QueueTimeout     BudgetExhausted
    │   ├── WorkerFault             another try may succeed
    │   │   ├── WorkerOutdated      WorkerLost        WorkerError      WorkerDiskFull
    │   │   ├── EncodeFailed        GatewayUnreachable    UploadFailed     StorageFull    OutputMissing
    │   │   ├── EncoderUnavailable  SubmitUnconfirmed     ClaimTimeout
    │   │   └── ProviderUnreachable     StorageUnreachable
    │   └── Stopped                 nobody wants the attempt any more
    │       └── Superseded          Cancelled
    └── RequestError                a request is refused; only gateway/api knows the HTTP status
        ├── Unauthorized   SignatureInvalid   NotFound         MethodNotAllowed   BadRequest
        ├── MissingScope   RateLimited        TooManyJobs      SpendingLimit      FileNotMedia
        ├── ValidationFailed   MalformedBody  BodyTooComplex   PayloadTooLarge    LengthRequired
        ├── UnsupportedMediaType
        ├── JobFinished    JobNotFinished     NoWebhook        AttemptSuperseded   IdempotencyMismatch
        └── TransfersBusy  StorageLow         ServiceUnavailable    InternalError  RangeNotSatisfiable

Each class has a stable `code` for programs, a public `message` for people, and, apart from it, a `detail` that only
the log sees. Whether a job is tried again is decided by the class, never by the text.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE = 2000
MAX_DETAIL = 4000
CODES: dict[str, type[ReelayError]] = {}


def storable(text: str) -> str:
    """`text` without what JSON may bring and no database takes: halves of characters, and NUL."""
    return text.replace("\0", "?").encode(errors="replace").decode()


class ReelayError(Exception):
    """The root. `code` is stable, `message` is for the client, `detail` is for the log only."""

    code: ClassVar[str] = ""
    text: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        self.message = storable(message or self.text)
        self.detail = detail[-MAX_DETAIL:] if detail else None
        super().__init__(self.message)

    def __init_subclass__(cls) -> None:
        code = cls.__dict__.get("code")
        if code:
            if code in CODES:
                raise TypeError(f"two errors share the code {code!r}")
            CODES[code] = cls


class JobError(ReelayError):
    """Ends an attempt."""

    def to_wire(self) -> dict[str, object]:
        """`{code, message, retryable}`, the shape in events, in handler errors and at the HTTP worker."""
        return {"code": self.code, "message": self.message[:MAX_MESSAGE], "retryable": self.retryable}


def job_error_from_wire(code: str, message: str, retryable: bool) -> JobError:
    """The error that a worker reported. A code of a newer worker keeps its name and is classed by `retryable`."""
    known = CODES.get(code)
    if known is not None and issubclass(known, JobError):
        return known(message)
    base: type[JobError] = WorkerFault if retryable else JobFault
    error = base(message)
    error.code = code  # type: ignore[misc]  # one instance stands for a class that this release does not have
    return error


class JobFault(JobError):
    """The job's own fault: trying again cannot help."""


class InvalidParams(JobFault):
    code = "invalid_params"
    text = "A parameter of the job is not valid."


class AssetForbidden(JobFault):
    code = "asset_forbidden"
    text = "The URL points to an address that jobs may not fetch from."


class AssetNotFound(JobFault):
    code = "asset_not_found"
    text = "The URL answered that the file is not there or may not be read."


class AssetUnavailable(JobFault):
    code = "asset_unavailable"
    text = "The URL did not deliver the file in time."


class AssetTooLarge(JobFault):
    code = "asset_too_large"
    text = "The file behind the URL is larger than a job may fetch."


class AssetEmpty(JobFault):
    code = "asset_empty"
    text = "The file behind the URL is empty."


class AssetInvalid(JobFault):
    code = "asset_invalid"
    text = "The file behind the URL is not of the kind that the operation needs."


class AssetHasNoAudio(JobFault):
    code = "asset_has_no_audio"
    text = "The file behind the URL has no audio track."


class OutputTooLarge(JobFault):
    code = "output_too_large"
    text = "The finished video would be larger than a job may make."


class JobTimeout(JobFault):
    code = "job_timeout"
    text = "The job ran longer than it may."


class QueueTimeout(JobFault):
    code = "queue_timeout"
    text = "No worker took the job in time."


class BudgetExhausted(JobFault):
    code = "budget_exhausted"
    text = "The spending limit of the API key was reached for today before the job had begun, or could be tried again."


class WorkerFault(JobError):
    """Not the job's fault: another try, perhaps elsewhere, may succeed."""

    retryable = True


class WorkerOutdated(WorkerFault):
    code = "worker_outdated"
    text = "The worker does not know the operation or one of its parameters."


class WorkerLost(WorkerFault):
    code = "worker_lost"
    text = "The worker stopped in the middle of the job."


class WorkerError(WorkerFault):
    code = "worker_error"
    text = "The worker failed unexpectedly."


class WorkerDiskFull(WorkerFault):
    code = "worker_disk_full"
    text = "The worker's disk is full."


class EncodeFailed(WorkerFault):
    code = "encode_failed"
    text = "FFmpeg could not make the video."


class EncoderUnavailable(WorkerFault):
    code = "encoder_unavailable"
    text = "The worker has no working encoder for the codec."


class GatewayUnreachable(WorkerFault):
    code = "gateway_unreachable"
    text = "The worker could not reach the gateway."


class UploadFailed(WorkerFault):
    code = "upload_failed"
    text = "The worker could not store the finished video."


class StorageFull(WorkerFault):
    code = "storage_full"
    text = "The storage for finished videos is full."


class OutputMissing(WorkerFault):
    code = "output_missing"
    text = "The worker reported success, but the stored video is missing or incomplete."


class SubmitUnconfirmed(WorkerFault):
    code = "submit_unconfirmed"
    text = "It could not be found out whether a worker took the job."


class ClaimTimeout(WorkerFault):
    code = "claim_timeout"
    text = "A worker took the job and never began it."


class ProviderUnreachable(WorkerFault):
    code = "provider_unreachable"
    text = "The provider took the job and could not be asked about it any more."


class StorageUnreachable(WorkerFault):
    code = "storage_unreachable"
    text = "The worker reported success, but the storage could not be asked for the video."


class GatewayError(JobError):
    code = "gateway_error"
    text = "Something went wrong on the server until the job's time was up."


class Stopped(JobError):
    """Nobody wants the attempt any more; the worker drops it within two seconds."""


class Superseded(Stopped):
    code = "superseded"
    text = "A newer attempt or another worker has taken over."


class Cancelled(Stopped):
    code = "cancelled"
    text = "The job was cancelled."


class RequestError(ReelayError):
    """An HTTP request is refused; `retry_after_s`: when it may be repeated, where that is known."""

    retry_after_s: int | None = None

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s or self.retry_after_s


class Unauthorized(RequestError):
    code = "unauthorized"
    text = "The request needs a valid key in the header X-API-Key."


class MissingScope(RequestError):
    code = "missing_scope"
    text = "The key is valid, but may not do this: it lacks the scope that this address needs."


class RateLimited(RequestError):
    code = "rate_limited"
    text = "Too many requests. Try again after the time in Retry-After."


class TooManyJobs(RequestError):
    code = "too_many_jobs"
    text = "The key has as many unfinished jobs as it may have. Try again when some have ended."


class SpendingLimit(RequestError):
    code = "spending_limit"
    text = "The key has reached its spending limit for today (UTC), or its unfinished jobs are going to."


class SignatureInvalid(RequestError):
    code = "signature_invalid"
    text = "The URL's signature is missing, wrong or expired. Read the job again for a fresh URL."


class NotFound(RequestError):
    code = "not_found"
    text = "There is nothing at this address."


class MethodNotAllowed(RequestError):
    code = "method_not_allowed"
    text = "This address does not take that method."


class BadRequest(RequestError):
    code = "bad_request"
    text = "The request could not be understood."


class ValidationFailed(RequestError):
    code = "validation_failed"
    text = "One or more fields are not valid."

    def __init__(self, message: str | None = None, *, errors: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or {}


class MalformedBody(RequestError):
    code = "malformed_body"
    text = "The body is not valid JSON."


class BodyTooComplex(RequestError):
    code = "body_too_complex"
    text = "The body is nested too deeply, or an object in it has too many fields."


class PayloadTooLarge(RequestError):
    code = "payload_too_large"
    text = "The body is larger than this address takes."


class LengthRequired(RequestError):
    code = "length_required"
    text = "The request must say the length of its body (Content-Length)."


class UnsupportedMediaType(RequestError):
    code = "unsupported_media_type"
    text = "The body must be JSON, with the header Content-Type: application/json."


class FileNotMedia(RequestError):
    code = "file_not_media"
    text = "The file is no video, audio, image or subtitles that a job could use."


class JobFinished(RequestError):
    code = "job_finished"
    text = "The job has already ended."


class JobNotFinished(RequestError):
    code = "job_not_finished"
    text = "The job has not ended yet."


class NoWebhook(RequestError):
    code = "no_webhook"
    text = "The job was made without webhook_url."


class AttemptSuperseded(RequestError):
    code = "attempt_superseded"
    text = "The attempt is no longer wanted: it was superseded, cancelled, or claimed by another worker."


class IdempotencyMismatch(RequestError):
    code = "idempotency_mismatch"
    text = "The Idempotency-Key was used before with a different request."


class RangeNotSatisfiable(RequestError):
    code = "range_not_satisfiable"
    text = "The requested range lies outside the file."


class TransfersBusy(RequestError):
    code = "transfers_busy"
    text = "Too many file transfers at the moment. Try again shortly."


class StorageLow(RequestError):
    code = "storage_low"
    text = "The server is low on disk space and takes no new files or jobs."


class ServiceUnavailable(RequestError):
    code = "service_unavailable"
    text = "The server cannot do this at the moment. Try again shortly."


class InternalError(RequestError):
    code = "internal_error"
    text = "Something went wrong on the server. The request id helps to find it in the log."

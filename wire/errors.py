"""Everything that can end an attempt, as one tree with one list of codes.

    ReelayError
    ├── JobError                    ends an attempt
    │   ├── GatewayError            errors on the server
    │   ├── JobFault                the job's own fault: never tried again
    │   │   ├── InvalidParams       AssetForbidden    AssetNotFound    AssetUnavailable
    │   │   ├── AssetTooLarge       AssetEmpty        AssetInvalid     AssetHasNoAudio
    │   │   ├── OutputTooLarge      JobTooLarge       JobTimeout       QueueTimeout
    │   │   └── BudgetExhausted
    │   ├── WorkerFault             another try may succeed
    │   │   ├── WorkerOutdated      WorkerLost        WorkerError      WorkerDiskFull
    │   │   ├── EncodeFailed        GatewayUnreachable    UploadFailed     StorageFull
    │   │   ├── OutputMissing       OutputInvalid
    │   │   ├── EncoderUnavailable, EncoderUnsuitable     SubmitUnconfirmed     ClaimTimeout
    │   │   └── ProviderUnreachable     StorageUnreachable
    │   └── Stopped                 the attempt is no longer wanted
    │       └── Superseded          Cancelled
    └── RequestError                an HTTP request is refused: see `gateway.errors`

An error has a stable `code` for programs, a public `message` for people, and a `detail` for the log only. Its class
alone decides whether a job is tried again.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE = 2000
MAX_DETAIL = 4000
CODES: dict[str, type[ReelayError]] = {}


def storable(text: str) -> str:
    """Replace what JSON can contain but databases reject: lone surrogates and NUL."""
    return text.replace("\0", "?").encode(errors="replace").decode()


class ReelayError(Exception):
    """The root of all errors. With a `code`, the docstring has its `text`, then a blank line and its `remedy`."""

    code: ClassVar[str] = ""
    #: What the code means, and the default message.
    text: ClassVar[str] = ""
    #: What can be done about it.
    remedy: ClassVar[str] = ""
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, *, detail: str | None = None) -> None:
        self.message = storable(message or self.text)
        self.detail = detail[-MAX_DETAIL:] if detail else None
        super().__init__(self.message)

    def __init_subclass__(cls, *, code: str = "") -> None:
        if code in CODES:
            raise TypeError(f"two errors share the code {code!r}")
        if code:
            text, _, remedy = (cls.__doc__ or "").partition("\n\n")
            cls.code, cls.text, cls.remedy = code, text.strip(), " ".join(remedy.split())
            CODES[code] = cls


class JobError(ReelayError):
    """Ends an attempt."""

    def to_wire(self) -> dict[str, object]:
        """`{code, message, retryable}`, the shape in events, in handler errors and at the HTTP worker."""
        return {"code": self.code, "message": self.message[:MAX_MESSAGE], "retryable": self.retryable}


def job_error_from_wire(code: str, message: str, retryable: bool) -> JobError:
    """Return the error that a worker reported. An unknown code of a newer worker is kept and classed by `retryable`."""
    known = CODES.get(code)
    if known is not None and issubclass(known, JobError):
        return known(message)
    base: type[JobError] = WorkerFault if retryable else JobFault
    error = base(message)
    error.code = code  # type: ignore[misc]  # one instance stands for a class that this release does not have
    return error


class JobFault(JobError):
    """The job's own fault: trying again cannot help."""


class InvalidParams(JobFault, code="invalid_params"):
    """A parameter of the job is not valid.

    Correct the param that the message names, and create the job again.
    """


class AssetForbidden(JobFault, code="asset_forbidden"):
    """The URL points to an address that jobs may not fetch from.

    Use a public address, or upload the file with POST /files and use the URL that it returns.
    """


class AssetNotFound(JobFault, code="asset_not_found"):
    """The server of the URL reported that the file does not exist or may not be read.

    Open the URL in a private window: it must show the file without a login and must not have expired.
    """


class AssetUnavailable(JobFault, code="asset_unavailable"):
    """The file could not be downloaded in time.

    Try again later, or upload the file with POST /files and use the URL that it returns.
    """


class AssetTooLarge(JobFault, code="asset_too_large"):
    """The file at the URL is larger than allowed.

    Make the file smaller, or ask the operator to raise MAX_ASSET_BYTES or MAX_JOB_ASSETS_BYTES.
    """


class AssetEmpty(JobFault, code="asset_empty"):
    """The file at the URL is empty.

    Check the step that makes the file; it may not have finished when the job was created.
    """


class AssetInvalid(JobFault, code="asset_invalid"):
    """The file at the URL is not of the kind that the operation needs.

    Use a direct link to a file of the kind that the field asks for, and check that it plays.
    """


class AssetHasNoAudio(JobFault, code="asset_has_no_audio"):
    """The file at the URL has no audio track.

    Use a file with sound.
    """


class OutputTooLarge(JobFault, code="output_too_large"):
    """The finished files would be larger than allowed.

    Lower `encoding.quality`, the size or the length, or raise `encoding.max_bytes`.
    """


class JobTooLarge(JobFault, code="job_too_large"):
    """The job needs more memory than the worker allows.

    Use smaller pictures or fewer parts.
    """


class JobTimeout(JobFault, code="job_timeout"):
    """The job exceeded its time limit.

    Use a shorter or smaller source, or ask the operator to raise JOB_TIMEOUT_SECONDS.
    """


class QueueTimeout(JobFault, code="queue_timeout"):
    """No worker took the job in time.

    Create the job again later. If it happens often, the operator looks at the provider and its limits of workers.
    """


class BudgetExhausted(JobFault, code="budget_exhausted"):
    """The API key reached its daily spending limit before the job could start, or be tried again.

    Create the job again tomorrow (UTC), or ask the operator to raise DAILY_SPENDING_LIMIT_USD.
    """


class WorkerFault(JobError):
    """Not the job's fault: another try, perhaps elsewhere, may succeed."""

    retryable = True


class WorkerOutdated(WorkerFault, code="worker_outdated"):
    """The worker does not know the operation or one of its parameters.

    The operator updates the image of the workers to the version of the gateway.
    """


class WorkerLost(WorkerFault, code="worker_lost"):
    """The worker stopped in the middle of the job.

    Create the job again. If it happens often, the operator looks at the worker's log for a lack of memory.
    """


class WorkerError(WorkerFault, code="worker_error"):
    """The worker failed unexpectedly.

    Create the job again. If it fails again, the operator finds the cause in the worker's log.
    """


class WorkerDiskFull(WorkerFault, code="worker_disk_full"):
    """The worker's disk is full.

    Create the job again. The operator gives the workers a larger disk.
    """


class EncodeFailed(WorkerFault, code="encode_failed"):
    """FFmpeg could not make the video.

    Create the job again. If the same source fails again, convert it first.
    """


class EncoderUnavailable(WorkerFault, code="encoder_unavailable"):
    """The worker has no working encoder for the codec, or only the CPU's where a GPU is required.

    The operator checks the workers' GPUs and drivers, or allows the CPU with GPU_ENCODER=prefer.
    """


class EncoderUnsuitable(EncoderUnavailable, code="encoder_unsuitable"):
    """The worker's GPU does not encode this job: its chip lacks the codec, or all its encoder sessions are in use.

    Use another `encoding.codec`, or create the job again later.
    """


class GatewayUnreachable(WorkerFault, code="gateway_unreachable"):
    """The worker could not reach the gateway.

    The operator checks that workers reach WORKER_URL.
    """


class UploadFailed(WorkerFault, code="upload_failed"):
    """The worker could not store the finished files.

    Create the job again. The operator checks that workers reach the storage.
    """


class StorageFull(WorkerFault, code="storage_full"):
    """The storage for finished files is full.

    The operator frees space in the storage; then create the job again.
    """


class OutputMissing(WorkerFault, code="output_missing"):
    """The worker reported success, but a file that the job should have made is missing or incomplete.

    Create the job again. If it fails again, the operator finds the cause in the worker's log.
    """


class OutputInvalid(WorkerFault, code="output_invalid"):
    """The worker made a file of another type than the operation declares.

    Create the job again. If it fails again, the operator finds the cause in the worker's log.
    """


class SubmitUnconfirmed(WorkerFault, code="submit_unconfirmed"):
    """It is unknown whether a worker took the job.

    Create the job again: the provider did not respond in time.
    """


class ClaimTimeout(WorkerFault, code="claim_timeout"):
    """A worker took the job but never started it.

    Create the job again. If it happens often, the operator looks at the start of the workers.
    """


class ProviderUnreachable(WorkerFault, code="provider_unreachable"):
    """The provider took the job, but could not be reached afterwards.

    Create the job again once the provider responds.
    """


class StorageUnreachable(WorkerFault, code="storage_unreachable"):
    """The worker reported success, but the storage could not be reached to check the files.

    Create the job again. The operator checks the connection of the gateway to the storage.
    """


class GatewayError(JobError, code="gateway_error"):
    """Errors on the server kept the job from ending in time.

    Create the job again. The operator finds the cause in the gateway's log.
    """


class Stopped(JobError):
    """The attempt is no longer wanted; the worker drops it within two seconds."""


class Superseded(Stopped, code="superseded"):
    """A newer attempt or another worker has taken over.

    Nothing to do: the newer attempt decides.
    """


class Cancelled(Stopped, code="cancelled"):
    """The job was cancelled.

    Nothing to do.
    """

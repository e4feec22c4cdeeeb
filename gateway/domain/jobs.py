"""One request of a client: its status and the legal changes. Times are in ms UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.domain.outputs import Output
from wire.media_types import of_file_name

# How long after its time-out an attempt may still upload and report.
MARGIN_MS = 120_000
# Maximum length of what clients may set, in characters.
MAX_REFERENCE, MAX_FILENAME = 200, 120


class JobStatus(StrEnum):
    """The status of a job. Clients see these values and no others."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})

JOB_CHANGES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, *FINISHED}),
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, *FINISHED}),
    **{status: frozenset() for status in FINISHED},
}


@dataclass(frozen=True)
class Job:
    """One request of a client. Its params are stored separately: see `Store.params`."""

    #: `job_` and a ULID.
    id: str
    #: The API key that created it.
    key_id: str
    #: The operation's name.
    operation: str
    #: Its status, as clients see it.
    status: JobStatus
    #: When its request was accepted.
    created_at: int
    #: When it was last queued: at its creation, or when an attempt failed.
    queued_at: int
    #: How long one attempt may run, in seconds.
    timeout_s: int
    #: How long it may wait for a worker each time it is queued, in seconds.
    queue_limit_s: int
    #: The id of the request that created it, for the logs.
    request_id: str | None = None
    #: Where its end is reported.
    webhook_url: str | None = None
    #: Size of its params as JSON. They are dropped when it ends.
    params_bytes: int = 0
    #: The client's own id or label of it, which is shown and never interpreted. At most MAX_REFERENCE characters.
    reference: str | None = None
    #: The name for its downloads, without a folder, with or without an extension. At most MAX_FILENAME characters.
    filename: str | None = None
    #: 0 to 1, of the newest attempt.
    progress: float = 0.0
    #: When a worker first began it.
    started_at: int | None = None
    #: When it ended; None while it has not.
    finished_at: int | None = None
    #: How many attempts may have run.
    tries: int = 0
    #: How many attempts have ended because their machine had no encoder; these are not in `tries`.
    encoder_refusals: int = 0
    #: Number of submits since it last ran that no worker took; the pauses grow with it.
    waits: int = 0
    #: Why it has not started, for people.
    waiting_for: str | None = None
    #: The newest attempt, the only one that may change the job.
    attempt_id: str | None = None
    #: The files that it makes, by name.
    outputs: Mapping[str, Output] = field(default_factory=dict)
    #: Statistics of a completed job, as the worker reported them, and its provider.
    stats: Mapping[str, Any] | None = None
    #: What a completed job returns besides its files, if its operation returns anything.
    result: Mapping[str, Any] | None = None
    #: Why it failed: a stable code.
    error_code: str | None = None
    #: Why it failed, as a message for people.
    error_message: str | None = None
    #: Cost of all attempts in nano-dollars; None if they cost nothing.
    cost_nano: int | None = None
    #: When the dispatcher looks at it next; None once it has ended and its attempt is cleaned up.
    next_at: int | None = None
    #: The lease under which a dispatcher works on it.
    lease_token: str | None = None
    #: When that lease expires.
    lease_expires_at: int | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED

    @property
    def queue_deadline(self) -> int:
        """When it fails unless an attempt has begun."""
        return self.queued_at + self.queue_limit_s * 1000

    def file_name(self, name: str) -> str:
        """The file name under which its output `name` is downloaded."""
        extension = self.outputs[name].media_type.extension
        if self.filename is None:
            return f"{self.id}-{name}.{extension}"
        known = of_file_name(self.filename.lower())
        base = self.filename[: -len(known.extension) - 1] if known else self.filename
        return f"{base}.{extension}" if len(self.outputs) == 1 else f"{base}-{name}.{extension}"

    def outputs_expire_at(self, kept_s: int) -> int | None:
        """When the outputs of a completed job are removed, if they are kept for `kept_s` seconds."""
        if self.status is not JobStatus.COMPLETED or self.finished_at is None:
            return None
        return self.finished_at + kept_s * 1000

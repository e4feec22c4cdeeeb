"""The messages between gateway and worker: the worker's input, its events and the result.

The input is flat, `{"operation": …, <params>, "delivery": {…}}`, because people type it like that into a
provider's web page. Gateway and worker are deployed separately, so unknown keys of `delivery`, events and results are
ignored, while an unknown param is an error (`worker_outdated`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, post_load, validate, validates_schema

from common.clock import from_rfc3339, to_rfc3339
from common.validation import describe
from wire.errors import MAX_MESSAGE, InvalidParams, JobError, job_error_from_wire

# A worker reports every second. After this long without a report, the gateway gives it up; after this long without a
# response, the worker gives up too, unless it is already encoding.
SILENCE_S = 30
# Names that the request or the envelope uses: no operation may have a param with such a name.
RESERVED_NAMES = frozenset({"operation", "delivery", "webhook_url", "reference", "filename", "priority", "output"})
OUTPUT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
EVENT_TYPES = ("started", "progress", "completed", "failed")
DEFAULT_MAX_BYTES = 100_000_000
DEFAULT_MAX_JOB_ASSETS_BYTES = 1_000_000_000
# Maximum size of `result`, as JSON: what a job returns besides its files.
MAX_RESULT_BYTES = 64_000
# Where a GPU should encode and does not: `prefer` the CPU to a failed attempt, or `require` the GPU.
GPU_ENCODER = ("prefer", "require")
DEFAULT_TIMEOUT_S = 600
_POSITIVE = validate.Range(min=1)


@dataclass(frozen=True)
class Limits:
    """What one attempt may use."""

    #: Maximum size of one asset.
    max_asset_bytes: int = DEFAULT_MAX_BYTES
    #: Maximum size of all outputs together.
    max_output_bytes: int = DEFAULT_MAX_BYTES
    #: Maximum time for fetching and processing together, in seconds.
    timeout_s: int = DEFAULT_TIMEOUT_S
    #: Maximum size of all assets together.
    max_job_assets_bytes: int = DEFAULT_MAX_JOB_ASSETS_BYTES


@dataclass(frozen=True)
class Upload:
    """Where one output goes: a presigned PUT."""

    #: Signed, valid for this file only.
    url: str
    #: Maximum size of the file.
    max_bytes: int
    #: Headers that the signature requires.
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EventTarget:
    """Where events go."""

    #: URL to POST events to.
    url: str
    #: Bearer token, valid for this attempt only.
    token: str


@dataclass(frozen=True)
class Delivery:
    """The part of the input that says where to put the outputs and where to report."""

    #: Id of the job, for logs.
    job_id: str
    #: Id of the attempt, and of its run at an HTTP worker.
    attempt_id: str
    #: Time after which the gateway accepts nothing, in ms UTC.
    deadline: int
    #: What the attempt may use.
    limits: Limits = Limits()
    #: By output name. Empty: the outputs stay on the worker.
    uploads: Mapping[str, Upload] = field(default_factory=dict)
    #: None: nothing is reported.
    events: EventTarget | None = None
    #: One of GPU_ENCODER: what happens where a GPU should encode and does not.
    gpu_encoder: str = "prefer"
    #: Id of the client's request, for logs.
    request_id: str | None = None


@dataclass(frozen=True)
class JobInput:
    """The worker's whole input."""

    #: The operation's name.
    operation: str
    #: What the client set, not yet validated.
    params: Mapping[str, Any]
    #: None for a job without a gateway, such as a test run: its outputs stay on the worker.
    delivery: Delivery | None = None


@dataclass(frozen=True)
class Event:
    """What a worker reports."""

    #: One of EVENT_TYPES.
    type: str
    #: Id that the worker chose for its claim of the attempt.
    claim_id: str
    #: 0 to 1.
    progress: float | None = None
    #: A ResultSchema document; with the type `completed` only.
    result: Mapping[str, Any] | None = None
    #: Why the attempt failed; with the type `failed` only.
    error: JobError | None = None


class _Wire(Schema):
    """Ignores unknown keys, because the other side may be newer. Loading returns what `made` makes of the fields."""

    class Meta:
        unknown = EXCLUDE

    made: ClassVar[Callable[..., Any]] = dict

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> Any:
        return self.made(**data)


class Rfc3339(fields.String):
    """A time: integer milliseconds in Python, RFC 3339 in JSON."""

    default_error_messages = {"invalid": "Not an RFC 3339 time."}

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        return None if value is None else to_rfc3339(value)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:  # type: ignore[override]
        try:
            return from_rfc3339(value)
        except (TypeError, ValueError) as error:
            raise self.make_error("invalid") from error


def _output_name() -> fields.String:
    return fields.String(validate=validate.Regexp(OUTPUT_NAME.pattern + r"\Z"))


class LimitsSchema(_Wire):
    made = Limits
    max_asset_bytes = fields.Integer(validate=_POSITIVE, load_default=DEFAULT_MAX_BYTES)
    max_output_bytes = fields.Integer(validate=_POSITIVE, load_default=DEFAULT_MAX_BYTES)
    timeout_s = fields.Integer(validate=_POSITIVE, load_default=DEFAULT_TIMEOUT_S)
    max_job_assets_bytes = fields.Integer(validate=_POSITIVE, load_default=DEFAULT_MAX_JOB_ASSETS_BYTES)


class UploadSchema(_Wire):
    made = Upload
    url = fields.Url(required=True, require_tld=False, schemes={"http", "https"})
    max_bytes = fields.Integer(required=True, validate=_POSITIVE)
    headers = fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict)


class EventTargetSchema(_Wire):
    made = EventTarget
    url = fields.Url(required=True, require_tld=False, schemes={"http", "https"})
    token = fields.String(required=True)


class DeliverySchema(_Wire):
    made = Delivery
    job_id = fields.String(required=True)
    attempt_id = fields.String(required=True, validate=validate.Regexp(r"^[A-Za-z0-9_-]{1,64}\Z"))
    deadline = Rfc3339(required=True)
    limits = fields.Nested(LimitsSchema, load_default=Limits())
    uploads = fields.Dict(keys=_output_name(), values=fields.Nested(UploadSchema), load_default=dict)
    events = fields.Nested(EventTargetSchema, load_default=None)
    gpu_encoder = fields.String(load_default="prefer", validate=validate.OneOf(GPU_ENCODER))
    request_id = fields.String(load_default=None)


class JobInputSchema(Schema):
    class Meta:
        unknown = INCLUDE

    operation = fields.String(required=True)
    delivery = fields.Nested(DeliverySchema, load_default=None)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> JobInput:
        return JobInput(data.pop("operation"), delivery=data.pop("delivery"), params=data)


class ErrorSchema(_Wire):
    made = staticmethod(job_error_from_wire)
    code = fields.String(required=True, validate=validate.Regexp(r"^[a-z][a-z0-9_]{0,63}\Z"))
    message = fields.String(required=True, validate=validate.Length(max=MAX_MESSAGE))
    retryable = fields.Boolean(required=True)


class StatsSchema(_Wire):
    """Figures of a finished attempt. Times in seconds, sizes in bytes."""

    duration_s = fields.Float(metadata={"description": "Length of the finished video."})
    size_bytes = fields.Integer(metadata={"description": "Size of the finished video."})
    width = fields.Integer(metadata={"description": "Width of the finished video, in pixels."})
    height = fields.Integer(metadata={"description": "Height of the finished video, in pixels."})
    frames = fields.Integer(metadata={"description": "Number of frames in the finished video."})
    encoder = fields.String(metadata={"description": "The video encoder; `copy` if the video stream was copied."})
    device = fields.String(metadata={"description": "`gpu` or `cpu`."})
    gpu = fields.String(metadata={"description": "The worker's GPU, if it is known."})
    gpu_failure = fields.String(
        metadata={"description": "Why the worker's GPU did not encode, if it should have. Usually missing."}
    )
    ffmpeg_version = fields.String(metadata={"description": "Version of the worker's FFmpeg."})
    warnings = fields.List(
        fields.String(),
        metadata={
            "description": "Problems that did not stop the job, such as parts that could not be decoded, missing "
            "glyphs or fonts, an encoder that failed, or a worker whose sandbox is not whole. Usually missing."
        },
    )
    fetched_bytes = fields.Integer(metadata={"description": "Size of the assets; of equal URLs, one counts."})
    fetch_s = fields.Float(metadata={"description": "Time for fetching the assets."})
    processing_s = fields.Float(metadata={"description": "Time for running the operation."})
    upload_s = fields.Float(metadata={"description": "Time for storing the outputs."})


class OutputSchema(_Wire):
    """A file that a worker made."""

    size_bytes = fields.Integer(required=True, validate=_POSITIVE)
    path = fields.String()


def _small(result: Mapping[str, Any]) -> None:
    if (size := len(json.dumps(result, ensure_ascii=False).encode("utf-8", "surrogatepass"))) > MAX_RESULT_BYTES:
        raise ValidationError(f"Must not be larger than {MAX_RESULT_BYTES} bytes as JSON, it has {size}.")


class ResultSchema(_Wire):
    """What a worker returns. An output has a `path` only when the input had no `delivery.uploads`."""

    outputs = fields.Dict(keys=_output_name(), values=fields.Nested(OutputSchema), required=True)
    stats = fields.Nested(StatsSchema, required=True)
    result = fields.Dict(keys=fields.String(), validate=_small)


class EventSchema(_Wire):
    made = Event
    type = fields.String(required=True, validate=validate.OneOf(EVENT_TYPES))
    claim_id = fields.String(required=True, validate=validate.Length(min=8, max=64))
    progress = fields.Float(validate=validate.Range(min=0, max=1), load_default=None)
    result = fields.Nested(ResultSchema, load_default=None)
    error = fields.Nested(ErrorSchema, load_default=None)

    @validates_schema
    def _matches_type(self, data: dict[str, Any], **_: Any) -> None:
        for name, needed_by in (("result", "completed"), ("error", "failed")):
            if (data["type"] == needed_by) != (data[name] is not None):
                raise ValidationError(f"Must be set for the type `{needed_by}`, and only for it.", name)


def parse_job_input(raw: object) -> JobInput:
    """Parse `raw`, a decoded JSON object. Raises InvalidParams naming every wrong field of the envelope."""
    if not isinstance(raw, Mapping):
        raise InvalidParams("The input must be a JSON object with the key `operation`.")
    try:
        return JobInputSchema().load(dict(raw))  # type: ignore[no-any-return]
    except ValidationError as error:
        raise InvalidParams(describe(error)) from error

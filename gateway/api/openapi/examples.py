"""Examples of responses, dumped by the schemas that make the real ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from ffmpeg_ops.operation import OPERATIONS, Operation
from gateway.api import problems
from gateway.api.job_document import JobSchema, JobView
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import FINISHED, Job, JobStatus
from gateway.domain.outputs import Output
from gateway.domain.webhooks import Webhook, WebhookState
from gateway.errors import RequestError, ValidationFailed
from wire.errors import AssetNotFound, WorkerLost

_BASE = "https://video.example.com"
_ULID = "01HF7YAT00M3XH5S9QHW1K2YB4"
_JOB_ID, _ATTEMPT_ID = f"job_{_ULID}", f"att_{_ULID}"
_CREATED, _S, _DAY_MS = 1_700_000_000_000, 1000, 86_400_000
_SIZE = 701_310
_TRANSFERS = {"fetched_bytes": 245_870, "fetch_s": 0.405, "processing_s": 2.05, "upload_s": 0.309}
_VIDEO_STATS = {
    "duration_s": 3.0,
    "size_bytes": _SIZE,
    "width": 1920,
    "height": 1080,
    "frames": 72,
    "encoder": "h264_nvenc",
    "device": "gpu",
    "gpu": "NVIDIA RTX A4000",
}
_ENDED_OF: Mapping[JobStatus, Mapping[str, Any]] = {
    JobStatus.COMPLETED: {"progress": 1.0, "finished_at": _CREATED + 5 * _S, "cost_nano": 720_000},
    JobStatus.FAILED: {
        "finished_at": _CREATED + 5 * _S,
        "error_code": AssetNotFound.code,
        "error_message": "url_video: the server reported that the file does not exist (404).",
    },
    JobStatus.CANCELLED: {"finished_at": _CREATED + 5 * _S},
}
_TITLES = {
    JobStatus.QUEUED: "The job waits for a worker",
    JobStatus.RUNNING: "A worker runs the job",
    JobStatus.COMPLETED: "The job is done",
    JobStatus.FAILED: "The job failed",
    JobStatus.CANCELLED: "The job was cancelled",
}


def job(operation: Operation, status: JobStatus, webhook: bool = False) -> dict[str, Any]:
    """The document of a job with the first example's params."""
    return copy.deepcopy(_job(operation.name, status, webhook))


@cache  # making it takes a hundred times as long as copying it, and each of them is in many responses
def _job(name: str, status: JobStatus, webhook: bool) -> dict[str, Any]:
    operation = OPERATIONS[name]
    made = operation.declared(operation.params().load(dict(operation.examples[0])))
    record = Job(
        id=_JOB_ID,
        key_id=f"key_{_ULID}",
        operation=operation.name,
        status=status,
        created_at=_CREATED,
        queued_at=_CREATED,
        timeout_s=600,
        queue_limit_s=1800,
        webhook_url="https://example.com/hook" if webhook else None,
        reference="row 17",
        outputs={name: Output(media_type.name) for name, media_type in made.items()},
    )
    if status is not JobStatus.QUEUED:
        record = replace(record, attempt_id=_ATTEMPT_ID, started_at=_CREATED + 2 * _S, tries=1, progress=0.42)
    document: dict[str, Any] = JobSchema().dump(_view(_ended(record, operation) if status in FINISHED else record))
    return document


def _ended(record: Job, operation: Operation) -> Job:
    record = replace(record, **_ENDED_OF[record.status])
    if record.status is not JobStatus.COMPLETED:
        return record
    video = _VIDEO_STATS if any(output.media_type.kind == "video" for output in record.outputs.values()) else {}
    stats = {**video, "ffmpeg_version": "7.1.1", **_TRANSFERS, "provider": "runpod", "idle_cost_usd": 0.0576}
    return replace(record, stats=stats, result=operation.result_example or None)


def _view(record: Job) -> JobView:
    done = record.status is JobStatus.COMPLETED
    outputs: dict[str, dict[str, Any]] = {
        name: {
            "url": f"{_BASE}/files/outputs/{_JOB_ID}/{_ATTEMPT_ID}/{name}.{output.media_type.extension}?signature=c2ln",
            "content_type": output.media_type.mime,
            "size_bytes": _SIZE,
        }
        for name, output in record.outputs.items()
        if done
    }
    video = next((name for name in outputs if record.outputs[name].media_type.kind == "video"), None)
    return JobView(
        job=record,
        status_url=f"{_BASE}/jobs/{_JOB_ID}",
        attempts=[_attempt(record)] if record.attempt_id else None,
        webhook={"url": record.webhook_url, **_sent(record)} if record.webhook_url else None,
        outputs=outputs or None,
        video_url=outputs[video]["url"] if video else None,
        expires_at=record.outputs_expire_at(7 * _DAY_MS // _S) if outputs else None,
    )


def _attempt(record: Job) -> Attempt:
    return Attempt(
        id=_ATTEMPT_ID,
        job_id=record.id,
        provider="runpod",
        state=AttemptState.DONE if record.finished else AttemptState.CLAIMED,
        created_at=_CREATED + 40,
        deadline=_CREATED + 720 * _S,
        ended_at=record.finished_at,
        error_code=record.error_code,
        error_message=record.error_message,
    )


def _sent(record: Job) -> dict[str, Webhook]:
    if not record.finished:
        return {}
    return {"webhook": Webhook(record.id, record.key_id, "example.com:443", WebhookState.PENDING)}


def usual() -> Operation:
    """The operation of examples that are about any: img2vid, or the first where there is none."""
    return OPERATIONS.get("img2vid") or next(iter(OPERATIONS.values()))


def of_jobs(*statuses: JobStatus, operation: Operation | None = None, webhook: bool = False) -> dict[str, Any]:
    """Examples of one job in each of `statuses`, by default of the `usual` operation."""
    chosen = operation or usual()
    return {str(status): {"summary": _TITLES[status], "value": job(chosen, status, webhook)} for status in statuses}


def of_params(operation: Operation) -> dict[str, Any]:
    """The example of a request that was only checked."""
    params = operation.dump(operation.params().load(dict(operation.examples[0])))
    return {"valid": {"summary": "With `validate`: the params", "value": {"params": params}}}


def only(value: Any) -> dict[str, Any]:
    """The only example of a response."""
    return {"example": {"value": value}}


def of_list(*statuses: JobStatus, **more: Any) -> dict[str, Any]:
    """The example of a list of jobs."""
    jobs = [job(usual(), status) for status in statuses]
    return only({"jobs": jobs, "nextCursor": None, **more})


def problem(error: type[RequestError]) -> dict[str, Any]:
    """The example of an error."""
    more: Mapping[str, Any] = {}
    detail = None
    if error is ValidationFailed:
        reason = "Unknown field. Did you mean `url_image`?"
        more, detail = {"errors": {"image_url": [reason]}}, f"image_url: {reason}"
    return problems.document(error.status, error.code, error.text, detail, more, _ULID)


def of_failed_job(status: int) -> dict[str, Any]:
    """The example of a failed job, with strict handling, where the response has this status."""
    failed = job(usual(), JobStatus.FAILED)
    cls: type[AssetNotFound | WorkerLost] = AssetNotFound
    if status == problems.STATUS_OF_OUR_FAILURE:
        cls = WorkerLost
        failed["error"] = {"code": cls.code, "message": cls.text}
        failed["attempts"][0] |= {"code": cls.code, "reason": cls.text}
    message = failed["error"]["message"]
    value = problems.document(status, cls.code, cls.text, message, {"job": failed}, _ULID)
    return {cls.code: {"summary": "With strict handling: the job failed", "value": value}}


def of_errors(errors: list[type[RequestError]]) -> dict[str, Any]:
    """Examples of these errors, as references to `COMPONENTS`."""
    return {error.code: {"$ref": f"#/components/examples/{error.code}"} for error in errors}


def _family(error: type[RequestError]) -> list[type[RequestError]]:
    return [found for child in error.__subclasses__() for found in (child, *_family(child))]


COMPONENTS = {error.code: {"summary": error.text, "value": problem(error)} for error in _family(RequestError)}

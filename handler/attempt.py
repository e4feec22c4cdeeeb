"""Runs one attempt, from the claim to the report, for both the RunPod and the HTTP worker."""

from __future__ import annotations

import contextvars
import errno
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import unquote_plus

import structlog
from marshmallow import ValidationError

from common.validation import describe, too_complex
from ffmpeg_ops.engine import memory, sandbox
from ffmpeg_ops.operation import OPERATIONS, Operation, StopSignal, Work
from handler import outputs
from handler.events import Events, Reporter
from handler.fetch import fetch_all
from handler.settings import Settings
from handler.workdir import private_directory
from wire.envelope import MAX_RESULT_BYTES, JobInput, Limits, ResultSchema, StatsSchema, parse_job_input
from wire.errors import (
    GatewayUnreachable,
    InvalidParams,
    JobError,
    JobTimeout,
    Stopped,
    UploadFailed,
    WorkerDiskFull,
    WorkerError,
    WorkerOutdated,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Progress after the fetch and after the operation; the remainder is the upload.
FETCHED, PROCESSED = 0.05, 0.95
# How long a stopped task may take to end; then its thread is abandoned.
STOP_GRACE_S = 1.0
# Maximum size of the result with stats and warnings, far below the limits of RunPod (20 MB) and of the gateway.
MAX_ANSWER_BYTES = 500_000
# Time for the upload, beyond the attempt's time limit; slightly less than the gateway allows.
UPLOAD_S = 110.0


def run_attempt(
    raw_input: object,
    settings: Settings,
    stop: StopSignal | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> dict[str, Any]:
    """Run the job in `raw_input`, a worker's input as decoded JSON. Returns a ResultSchema document.

    Raises only JobError; by then it has been reported to the gateway, if the input names one.
    """
    stop = stop or StopSignal()
    try:
        job_input = parse_job_input(raw_input)
        with _log_context(job_input):
            return _claimed(job_input, settings, stop, on_progress)
    except JobError:
        raise
    except Exception as error:
        raise _unexpected(error) from error


def _claimed(
    job_input: JobInput, settings: Settings, stop: StopSignal, on_progress: Callable[[float], None]
) -> dict[str, Any]:
    delivery = job_input.delivery
    reporter = Events(delivery, stop) if delivery and delivery.events else Reporter()

    def progress(fraction: float) -> None:
        reporter.progress = max(reporter.progress, fraction)
        on_progress(reporter.progress)

    try:
        _interruptible(reporter.claim, stop)
        log.info("attempt.started", operation=job_input.operation)
        result = _run(job_input, settings, stop, progress, reporter)
        _report_result(reporter, result)
    except Exception as error:
        failure = error if isinstance(error, JobError) else _unexpected(error)
        log.info("attempt.ended", code=failure.code, message=failure.message, detail=failure.detail)
        _report_failure(reporter, failure)
        raise failure from error
    finally:
        reporter.close()
    log.info("attempt.completed", **result["stats"])
    return result


def _run(
    job_input: JobInput,
    settings: Settings,
    stop: StopSignal,
    progress: Callable[[float], None],
    reporter: Reporter,
) -> dict[str, Any]:
    operation, params = validated(job_input)
    began_at = time.monotonic()
    limits = job_input.delivery.limits if job_input.delivery else Limits()
    with private_directory(settings.work_dir) as directory:

        def on_operation(fraction: float) -> None:
            progress(FETCHED + (PROCESSED - FETCHED) * fraction)

        requires_gpu = job_input.delivery is not None and job_input.delivery.gpu_encoder == "require"
        work = Work(
            directory, limits, stop, on_operation, requires_gpu, settings.gpu_decode, operation.declared(params)
        )
        memory_limit = memory.limited(work, settings.worker_max_memory_bytes)
        with memory_limit, _time_limit(limits.timeout_s, stop, JobTimeout()):
            assets, fetch_s = _timed(
                lambda: fetch_all(
                    operation.named_assets(params),
                    work,
                    deadline_s=limits.timeout_s / 2,
                    allow_origins=settings.fetch_allow_origins,
                    progress=lambda fraction: progress(FETCHED * fraction),
                ),
                stop,
            )
            fetched_bytes = sum(path.stat().st_size for path in set(assets.values()))
            progress(FETCHED)
            reporter.encoding()
            made, processing_s = _timed(lambda: operation.run(work, params, assets), stop)
            stats, facts = _stats_and_result(made)
            if found := (*stats.get("warnings", ()), *sandbox.warnings()):
                stats["warnings"] = list(found)
            sizes = outputs.check(work)
        gpu = {"gpu": unquote_plus(settings.runpod_gpu_name)} if settings.runpod_gpu_name else {}
        left_s = limits.timeout_s + UPLOAD_S - (time.monotonic() - began_at)
        with _time_limit(left_s, stop, UploadFailed(detail="it took too long")):
            stored, upload_s = _timed(lambda: outputs.store(work, job_input, settings.output_dir), stop)
    transfer = {"fetched_bytes": fetched_bytes, "fetch_s": fetch_s, "processing_s": processing_s, "upload_s": upload_s}
    files = {name: {"size_bytes": sizes[name], **where} for name, where in stored.items()}
    return _sendable(ResultSchema().dump({"outputs": files, "stats": {**stats, **gpu, **transfer}, **facts}))


def _stats_and_result(made: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split what an operation returned into stats and `{"result": …}`, empty without a result.

    Raises WorkerError for stats that StatsSchema does not declare, and for an invalid or too large result.
    """
    stats = {name: value for name, value in made.items() if name != "result"}
    if unknown := sorted(set(stats) - set(StatsSchema().fields)):
        raise WorkerError(f"The operation returned stats that are not declared: {', '.join(unknown)}.")
    if made.get("result") is None:
        return stats, {}
    if not isinstance(made["result"], dict):
        raise WorkerError("The operation returned a result that is not an object.")
    facts = {"result": made["result"]}
    _sendable(made["result"], MAX_RESULT_BYTES)
    if too_complex({"result": facts}):  # as the event that carries it
        raise WorkerError("The operation returned a result that is nested too deep, or has too many fields.")
    return stats, facts


def _sendable(result: dict[str, Any], max_bytes: int = MAX_ANSWER_BYTES) -> dict[str, Any]:
    """Return `result` if it can be sent. Raises WorkerError otherwise; the worker would appear to be lost."""
    try:
        size = len(json.dumps(result, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise WorkerError("The worker made a result that cannot be sent.", detail=repr(error)) from error
    if size > max_bytes:
        raise WorkerError(f"The result of the operation is too large: {size} bytes; at most {max_bytes} are allowed.")
    return result


def validated(job_input: JobInput) -> tuple[Operation, dict[str, Any]]:
    """Return the operation and its validated params.

    Raises WorkerOutdated for operations and params that this release does not know, and InvalidParams for wrong values.
    With a delivery, wrong values raise WorkerOutdated too: a newer gateway has accepted them.
    """
    delivery = job_input.delivery
    operation = OPERATIONS.get(job_input.operation)
    if operation is None:
        known = ", ".join(sorted(OPERATIONS))
        raise WorkerOutdated(f"This worker does not know the operation {job_input.operation!r}, only {known}.")
    schema = operation.params()
    if unknown := sorted(set(job_input.params) - set(schema.fields)):
        raise WorkerOutdated(f"This worker's {operation.name} does not know: {', '.join(unknown)}.")
    try:
        params = schema.load(dict(job_input.params))
        operation.named_assets(params)
    except ValidationError as error:
        raise (WorkerOutdated if delivery else InvalidParams)(describe(error)) from error
    if delivery and (others := outputs.mismatch(operation.declared(params), delivery.uploads)):
        raise WorkerOutdated(f"This worker's {operation.name} makes other outputs: {', '.join(others)}.")
    return operation, params


def _timed(task: Callable[[], T], stop: StopSignal) -> tuple[T, float]:
    started = time.monotonic()
    return _interruptible(task, stop), round(time.monotonic() - started, 3)


def _interruptible(task: Callable[[], T], stop: StopSignal) -> T:
    """Run `task` on a thread of its own, so that a blocked connect or a large decode cannot delay a stop.

    An abandoned task ends by its own time-outs.
    """
    outcome: Future[T] = Future()

    def target() -> None:
        try:
            outcome.set_result(task())
        except BaseException as error:
            outcome.set_exception(error)

    context = contextvars.copy_context()  # so that log lines contain the ids
    threading.Thread(target=context.run, args=(target,), daemon=True).start()
    grace_ends_at: float | None = None
    while not wait([outcome], timeout=0.1).done:
        if stop.reason is not None:
            grace_ends_at = grace_ends_at or time.monotonic() + STOP_GRACE_S
            if time.monotonic() > grace_ends_at:
                log.warning("attempt.thread_abandoned")
                stop.check()
    return outcome.result()


@contextmanager
def _time_limit(seconds: float, stop: StopSignal, reason: JobError) -> Iterator[None]:
    """Stop the attempt with `reason` after `seconds`.

    The gateway enforces the delivery's deadline, because this machine's clock may be wrong.
    """
    timer = threading.Timer(seconds, lambda: stop.set(reason))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _report_result(reporter: Reporter, result: dict[str, Any]) -> None:
    try:
        reporter.completed(result)
    except GatewayUnreachable as error:
        # Nothing is lost: the outputs are stored, and the gateway finds the result when it polls the provider.
        log.warning("attempt.result_not_reported", detail=error.detail)


def _report_failure(reporter: Reporter, failure: JobError) -> None:
    if isinstance(failure, Stopped):
        return  # whoever stopped the attempt knows
    try:
        reporter.failed(failure)
    except JobError as error:
        log.warning("attempt.failure_not_reported", code=error.code)


def _unexpected(error: Exception) -> JobError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return WorkerDiskFull()
    log.exception("attempt.failed_unexpectedly")
    return WorkerError(detail=repr(error))


@contextmanager
def _log_context(job_input: JobInput) -> Iterator[None]:
    delivery = job_input.delivery
    ids = {"job_id": delivery.job_id, "attempt_id": delivery.attempt_id} if delivery else {}
    if delivery and delivery.request_id:
        ids["request_id"] = delivery.request_id
    with structlog.contextvars.bound_contextvars(**ids):
        yield

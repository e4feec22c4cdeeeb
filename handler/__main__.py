"""`python -m handler`: the RunPod worker. `--test_input JSON` or a test_input.json runs one job by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from common import log as logs
from common.settings import SettingsError, read
from ffmpeg_ops.engine import ffmpeg, orphans, sandbox
from ffmpeg_ops.engine.probe import NoEncoder
from ffmpeg_ops.operation import StopSignal
from handler import hide_foreign_gpus, workdir
from handler.attempt import run_attempt
from handler.runpod_progress import ProgressRelay
from handler.settings import Settings
from handler.warm_up import skip_imports, warm_up
from wire.errors import Cancelled, JobError, WorkerError

log = structlog.get_logger(__name__)

# The SDK's progress_update(job, progress).
ProgressUpdate = Callable[[dict[str, Any], Mapping[str, float]], object]

# Delay of the warm-up, so that the first job-take is sent before the warm-up uses the CPU.
WARM_UP_AFTER_S = 0.1
# The SDK starts a job within a tenth of a second after taking it.
JOB_START_S = 0.25


async def handle(
    job: dict[str, Any], settings: Settings, progress_update: ProgressUpdate | None = None
) -> dict[str, Any]:
    """Run one RunPod job; return its result, or `{"error": "<JSON: code, message, retryable>"}`.

    The work runs on a thread, so that a cancellation by the SDK reaches it at once. Raises CancelledError only.
    """
    raw, stop = job.get("input"), StopSignal()
    relay = ProgressRelay(
        lambda progress: progress_update(job, progress) if progress_update and not _reports_events(raw) else None
    )
    with structlog.contextvars.bound_contextvars(requestId=job.get("id")):  # as in the log lines of the SDK
        work = asyncio.ensure_future(asyncio.to_thread(run_attempt, raw, settings, stop, relay.progress))
    try:
        output = await asyncio.shield(work)
    except JobError as error:
        output = _failed(error)
    except asyncio.CancelledError:
        relay.close()
        stop.set(Cancelled())
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # marks it as retrieved, or asyncio logs it
        raise
    except Exception as error:  # otherwise the SDK would send its traceback to RunPod
        log.exception("job.failed_unexpectedly")
        output = _failed(WorkerError(detail=repr(error)))
    relay.close()
    await asyncio.to_thread(relay.settle)
    return output


def _failed(error: JobError) -> dict[str, Any]:
    output: dict[str, Any] = {"error": json.dumps(error.to_wire())}
    if isinstance(error, NoEncoder):
        output["refresh_worker"] = True  # RunPod then replaces this worker
    return output


def _reports_events(raw: object) -> bool:
    delivery = raw.get("delivery") if isinstance(raw, Mapping) else None
    return isinstance(delivery, Mapping) and bool(delivery.get("events"))


class Worker:
    """The callbacks for the SDK, and a shutdown that is faster than the SDK's own."""

    def __init__(self, settings: Settings, progress_update: ProgressUpdate | None) -> None:
        self._settings, self._progress_update = settings, progress_update
        self._jobs: set[asyncio.Task[Any]] = set()
        self._ready = False
        self._leaving: asyncio.Task[None] | None = None

    async def handler(self, job: dict[str, Any]) -> dict[str, Any]:
        # The SDK's task, which also sends the output.
        if (task := asyncio.current_task()) is not None:
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)
        return await handle(job, self._settings, self._progress_update)

    def before_take(self, concurrency: int) -> int:
        """The SDK's `concurrency_modifier`, called before each job-take. Keeps one job at a time.

        Threads and signal handlers are set up at the first call: by then the SDK has forked its child and set its own.
        """
        if not self._ready:
            self._ready = True
            loop = asyncio.get_running_loop()
            loop.call_later(WARM_UP_AFTER_S, threading.Thread(target=warm_up, daemon=True).start)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._leave, signal.getsignal(number), number)
        return concurrency

    def _leave(self, handler_of_sdk: Any, number: int) -> None:
        handler_of_sdk(number, None)  # the SDK takes no further job after the pending job-take
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._end())

    async def _end(self) -> None:
        """Cancel the SDK's tasks as soon as the last job has ended and its output is sent.

        The SDK itself would wait up to 90 s for its long polls, and never run a job that it receives meanwhile.
        """
        await asyncio.sleep(JOB_START_S)
        while self._jobs:
            await asyncio.wait(self._jobs)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()


def main() -> None:
    sandbox.hide()
    try:
        settings = read(Settings)
    except SettingsError as error:
        sys.exit(f"Wrong settings: {error}")
    logs.configure(settings.log_level)
    hide_foreign_gpus.configure(settings)
    orphans.adopt()
    workdir.sweep(settings.work_dir)
    _configure_sdk()
    skip_imports()
    import runpod

    runpod.serverless.register_fitness_check(ffmpeg.check_installed)
    on_runpod = "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
    worker = Worker(settings, runpod.serverless.progress_update if on_runpod else None)
    try:
        runpod.serverless.start({"handler": worker.handler, "concurrency_modifier": worker.before_take})
    except asyncio.CancelledError:
        log.info("worker.stopped")
    finally:
        workdir.sweep(settings.work_dir)


def _configure_sdk() -> None:
    """Set the defaults of variables that the SDK reads at import."""
    # At DEBUG, the SDK's default, it logs a whole --test_input, and URLs may hold passwords.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    # These checks delay the first job-take by seconds and test CUDA only. NVENC is proven by a real encode.
    os.environ.setdefault("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")
    os.environ.setdefault("RUNPOD_SKIP_GPU_CHECK", "true")


if __name__ == "__main__":
    main()

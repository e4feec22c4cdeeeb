"""`python -m handler`: the RunPod worker; with `--test_input JSON` or a test_input.json, one job by hand."""

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
from ffmpeg_ops.engine import ffmpeg, sandbox
from ffmpeg_ops.engine.encoders import NoEncoder
from ffmpeg_ops.operation import StopSignal
from handler import workdir
from handler.attempt import run_attempt
from handler.runpod_progress import ProgressRelay
from handler.settings import Settings
from handler.warm_up import spare_imports, warm_up
from wire.errors import Cancelled, JobError, WorkerError

log = structlog.get_logger(__name__)

Tell = Callable[[dict[str, Any], Mapping[str, float]], object]

# The first job-take goes out before the warm-up begins to compete with it.
WARM_UP_AFTER_S = 0.1
# The SDK starts a job within a tenth of a second after it has taken it.
START_S = 0.25


async def handle(job: dict[str, Any], settings: Settings, tell: Tell | None = None) -> dict[str, Any]:
    """RunPod's handler: the job's result, or `{"error": "<JSON: code, message, retryable>"}`. Raises only if cancelled.

    Work runs on a thread, so that the SDK's stop, which arrives as a cancellation here, reaches it at once. `tell` is
    the SDK's progress_update.
    """
    mirror = ProgressRelay(lambda word: tell(job, word) if tell and not _reports_events(job.get("input")) else None)
    stop = StopSignal()
    with structlog.contextvars.bound_contextvars(requestId=job.get("id")):  # the name that the SDK's lines have
        work = asyncio.ensure_future(asyncio.to_thread(run_attempt, job.get("input"), settings, stop, mirror.progress))
    try:
        answer = await asyncio.shield(work)
    except JobError as error:
        answer = _failed(error)
    except asyncio.CancelledError:
        mirror.close()
        stop.set(Cancelled())
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # read, so that asyncio does not complain that nobody did
        raise
    except Exception as error:  # the SDK would send it to RunPod, traceback and all
        log.exception("job.unexpected")
        answer = _failed(WorkerError(detail=repr(error)))
    mirror.close()
    await asyncio.to_thread(mirror.settle)
    return answer


def _failed(error: JobError) -> dict[str, Any]:
    answer: dict[str, Any] = {"error": json.dumps(error.to_wire())}
    if isinstance(error, NoEncoder):
        answer["refresh_worker"] = True  # RunPod then stops this worker and starts another
    return answer


def _reports_events(raw: object) -> bool:
    delivery = raw.get("delivery") if isinstance(raw, Mapping) else None
    return isinstance(delivery, Mapping) and bool(delivery.get("events"))


class Worker:
    """What the SDK is given to call, and a way out that is quicker than its own."""

    def __init__(self, settings: Settings, tell: Tell | None) -> None:
        self._settings, self._tell = settings, tell
        self._jobs: set[asyncio.Task[Any]] = set()
        self._ready = False
        self._leaving: asyncio.Task[None] | None = None

    async def handler(self, job: dict[str, Any]) -> dict[str, Any]:
        # The SDK's own task, which sends the answer too.
        if (task := asyncio.current_task()) is not None:
            self._jobs.add(task)
            task.add_done_callback(self._jobs.discard)
        return await handle(job, self._settings, self._tell)

    def before_take(self, concurrency: int) -> int:
        """The SDK's `concurrency_modifier`, which it calls before each job-take: one job at a time.

        At the first call the SDK has forked its child, which no thread may disturb, and set its signal handlers.
        """
        if not self._ready:
            self._ready = True
            loop = asyncio.get_running_loop()
            loop.call_later(WARM_UP_AFTER_S, threading.Thread(target=warm_up, daemon=True).start)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._leave, signal.getsignal(number), number)
        return concurrency

    def _leave(self, handler_of_sdk: Any, number: int) -> None:
        handler_of_sdk(number, None)  # it takes no further job once the pending job-take is answered
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._end())

    async def _end(self) -> None:
        """The SDK waits up to 90 s for answers to its long polls, and a job that it is handed meanwhile never runs.

        So hang up as soon as the last job is over and its answer is sent.
        """
        await asyncio.sleep(START_S)
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
    workdir.sweep(settings.work_dir)
    _configure_sdk()
    spare_imports()
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
    """What the SDK reads from the environment at import. Whoever sets these variables is obeyed."""
    # At its own default, DEBUG, the SDK logs a --test_input whole, and URLs may hold passwords.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    # Seconds before the first job-take, for CUDA, which no operation uses. NVENC is tried with a real encode.
    os.environ.setdefault("RUNPOD_SKIP_AUTO_SYSTEM_CHECKS", "true")
    os.environ.setdefault("RUNPOD_SKIP_GPU_CHECK", "true")


if __name__ == "__main__":
    main()

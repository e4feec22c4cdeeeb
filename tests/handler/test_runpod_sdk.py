"""`python -m handler` under RunPod's real SDK, with the stand-in for RunPod."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from handler import runpod_progress
from handler.settings import Settings
from tests.emulators.conftest import processes
from tests.emulators.runpod import Config, Emulator
from tests.emulators.runpod.jobs import CANCELLED, COMPLETED, FAILED, QUEUED
from tests.emulators.runpod.jobs import Job as Submitted
from tests.handler.conftest import LONG
from tests.handler.support import Gateway, Job, alive, environment, ffmpegs
from tests.servers import PATIENCE_S, STOP_S, FileServer, Reply, eventually

pytestmark = pytest.mark.slow


class Worker:
    """A running `python -m handler`; `lines` is its output so far."""

    def __init__(self, settings: Settings, cwd: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=cwd,
            env=environment(settings, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self, event: str) -> bool:
        return any(event in line for line in self.lines)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(PATIENCE_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                self.lines.append(line.rstrip("\n"))


Start = Callable[..., Worker]


@pytest.fixture
def platform() -> Iterator[Emulator]:
    """An endpoint whose one worker is started by the test."""
    with Emulator(Config(latency_ms=0, max_workers=0)) as emulator:
        yield emulator


@pytest.fixture
def start(platform: Emulator, settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts the worker with more variables if given; it and its children are killed afterwards."""
    with ExitStack() as stack:

        def start(**env: str) -> Worker:
            worker = Worker(settings, tmp_path, **platform._environment("w"), **env)
            stack.callback(worker.kill)
            return worker

        yield start


def submit(platform: Emulator, raw: dict[str, Any]) -> Submitted:
    return platform.queue.submit({"input": raw})


def ended(job: Submitted, status: str) -> dict[str, Any]:
    """The result of the job, or its error, once it has ended with `status`."""
    eventually(lambda: job.ended_at)
    assert job.status == status
    if status == COMPLETED:
        return dict(job.output)
    error = json.loads(job.error or "")
    assert set(error) == {"code", "message", "retryable"}
    return dict(error)


def test_a_stop_ends_ffmpeg_and_leaves_the_worker_ready_for_the_next_job(
    img2vid: Job, gateway: Gateway, settings: Settings, platform: Emulator, start: Start
) -> None:
    job = submit(platform, img2vid(**LONG, delivery=gateway.delivery()))
    worker = start()
    eventually(lambda: list(settings.work_dir.glob("*/output-video.mp4")))
    [ffmpeg] = ffmpegs(worker.pid)
    platform.queue.cancel(job)
    eventually(lambda: not alive(ffmpeg), STOP_S)
    eventually(lambda: list(settings.work_dir.glob("attempt-*")) == [], STOP_S)
    assert (gateway.puts, platform.calls["job-done"], job.status) == ([], 0, CANCELLED)
    result = ended(submit(platform, img2vid(delivery=gateway.delivery())), COMPLETED)
    assert set(result) == {"outputs", "stats"} and result["stats"]["frames"] > 0
    assert (gateway.types[-1], len(gateway.puts)) == ("completed", 1)


def test_sigterm_ends_an_idle_worker_at_once(platform: Emulator, start: Start) -> None:
    worker = start()
    eventually(lambda: platform.calls["job-take"] and platform.calls["ping"])
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert processes(worker.pid) == []
    eventually(lambda: worker.said("worker.stopped"))
    assert not worker.said("Traceback")


def test_sigterm_lets_the_job_finish_and_its_result_arrive(
    img2vid: Job, settings: Settings, platform: Emulator, start: Start
) -> None:
    platform.inject("status", "job-done")  # the SDK tries again two seconds later, when the job itself is long over
    job = submit(platform, img2vid(duration=2))
    worker = start()
    eventually(lambda: list(settings.work_dir.glob("*/output-video.mp4")))
    worker.terminate()
    worker.terminate()
    takes, next_job = platform.calls["job-take"], submit(platform, img2vid())
    assert worker.wait(PATIENCE_S) == 0
    assert Path(ended(job, COMPLETED)["outputs"]["video"]["path"]).exists()
    assert (platform.calls["job-take"], next_job.status) == (takes, QUEUED)
    assert list(settings.work_dir.glob("attempt-*")) == []
    assert processes(worker.pid) == []


def test_a_job_taken_just_before_sigterm_is_run(img2vid: Job, platform: Emulator, start: Start) -> None:
    worker = start()
    eventually(lambda: platform.calls["job-take"])
    job = submit(platform, img2vid())
    eventually(lambda: job.status != QUEUED)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    ended(job, COMPLETED)


def test_an_error_is_json_and_no_log_line_holds_a_secret(
    caption: Job, files: FileServer, platform: Emulator, start: Start
) -> None:
    job = submit(platform, caption(url_video=files.url("/none?password=s3cret")))
    worker = start()
    assert ended(job, FAILED)["code"] == "asset_not_found" and job.output is None
    worker.terminate()
    worker.wait(PATIENCE_S)
    assert not worker.said("s3cret")
    assert not worker.said("Traceback")


def test_log_lines_are_json_that_runpod_does_not_cut(
    img2vid: Job, platform: Emulator, start: Start, tmp_path: Path
) -> None:
    chatty = _stand_in(
        tmp_path, "ffmpeg", 'case "$*" in *lavfi*) ;; *) seq 1 5000 | sed "s/.*/é \\"&\\" &&&&&&/" >&2; exit 1;; esac'
    )
    job = submit(platform, img2vid())
    worker = start(PATH=chatty)
    assert ended(job, FAILED)["code"] == "encode_failed"
    worker.terminate()
    worker.wait(PATIENCE_S)
    banner, *lines = worker.lines
    assert banner.startswith("--- Starting Serverless Worker")
    events = [json.loads(line) for line in lines]
    assert max(map(len, lines)) <= 4096
    [tail] = [event for event in events if event.get("event") == "ffmpeg.errors_printed"]
    assert tail["tail"].endswith("500050005000500050005000")
    assert tail["requestId"] == job.id


def test_an_unexpected_error_is_posted_without_its_traceback(
    img2vid: Job, settings: Settings, platform: Emulator, start: Start
) -> None:
    worker = start()
    eventually(lambda: platform.calls["job-take"])
    shutil.rmtree(settings.work_dir)
    settings.work_dir.write_text("a file where the folder was")
    error = ended(submit(platform, img2vid()), FAILED)
    assert error == {"code": "worker_error", "message": "The worker failed unexpectedly.", "retryable": True}
    eventually(lambda: worker.said("FileExistsError"))


def test_a_worker_on_which_no_encoder_works_asks_to_be_replaced(
    img2vid: Job, platform: Emulator, start: Start, tmp_path: Path
) -> None:
    job = submit(platform, img2vid())
    worker = start(PATH=_stand_in(tmp_path, "ffmpeg", "echo no such encoder >&2; exit 1"))
    assert ended(job, FAILED)["code"] == "encoder_unavailable"
    eventually(lambda: platform.fleet.known("w").leaving)
    eventually(lambda: worker.said("worker.encoder_missing"))


def test_a_worker_without_ffmpeg_is_unfit_and_takes_no_job(platform: Emulator, start: Start, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    worker = start(PATH=str(tmp_path / "bin"))
    assert worker.wait(PATIENCE_S) == 1
    assert platform.calls["job-take"] == 0 and platform.calls["ping"] >= 1
    assert worker.said("ffmpeg")


def test_no_progress_is_relayed_after_the_end(
    img2vid: Job, files: FileServer, media: Path, platform: Emulator, start: Start
) -> None:
    # The image takes longer to fetch than the first pause of progress.
    files.routes["/slow.png"] = Reply(body=(media / "image.png").read_bytes(), pause_s=runpod_progress.PERIOD_S + 0.3)
    platform.inject("status", "progress")  # so that the first one is posted again two seconds later, after the work
    job = submit(platform, img2vid(url_image=files.url("/slow.png")))
    start()
    result = ended(job, COMPLETED)
    calls = platform.calls["progress"]
    assert calls > 0 and "path" in result["outputs"]["video"]
    time.sleep(3)  # for what is late
    assert (platform.calls["progress"], job.output) == (calls, result)


def _stand_in(folder: Path, name: str, script: str) -> str:
    """A PATH on which `name` runs `script`, and then the real one."""
    real = shutil.which(name)
    path = folder / "stand-ins" / name
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n{script}\nexec {real} "$@"\n')
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"

"""`python -m handler` under RunPod's real SDK, with a small stand-in for RunPod."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handler import runpod_progress
from handler.settings import Settings
from tests.handler.platform import Platform, Worker, running
from tests.handler.support import Gateway, Job, alive, ffmpegs
from tests.servers import PATIENCE_S, STOP_S, FileServer, Reply, eventually

pytestmark = pytest.mark.slow
Start = Callable[..., Worker]


@pytest.fixture
def platform(server: Callable[[], FileServer]) -> Platform:
    return Platform(server())


@pytest.fixture
def start(platform: Platform, settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts the worker with more variables if given; it and its children are killed afterwards."""
    with ExitStack() as stack:
        yield lambda **env: stack.enter_context(running(platform, settings, tmp_path, **env))


def _error(post: dict[str, Any]) -> dict[str, Any]:
    error = json.loads(post["error"])
    assert set(error) == {"code", "message", "retryable"}
    return error  # type: ignore[no-any-return]


def test_it_takes_a_job_and_posts_its_result(caption: Job, gateway: Gateway, platform: Platform, start: Start) -> None:
    platform.give(caption(delivery=gateway.delivery()))
    start()
    eventually(lambda: platform.ends)
    assert set(platform.ends[0]) == {"output"}
    assert set(platform.ends[0]["output"]) == {"outputs", "stats"}
    assert gateway.types[-1] == "completed"
    assert len(gateway.puts) == 1


def test_a_stop_ends_ffmpeg_and_leaves_the_worker_ready_for_the_next_job(
    img2vid: Job, gateway: Gateway, settings: Settings, platform: Platform, start: Start
) -> None:
    id_ = platform.give(img2vid(duration=60, frame_rate=60, delivery=gateway.delivery()))
    worker = start()
    eventually(lambda: list(settings.work_dir.glob("*/output-video.mp4")))
    [ffmpeg] = ffmpegs(worker.pid)
    platform.stops.append(id_)
    eventually(lambda: not alive(ffmpeg), STOP_S)
    eventually(lambda: list(settings.work_dir.glob("attempt-*")) == [], STOP_S)
    assert (gateway.puts, platform.ends) == ([], [])
    platform.give(img2vid())
    eventually(lambda: platform.ends)
    assert platform.ends[0]["output"]["stats"]["frames"] > 0


def test_sigterm_ends_an_idle_worker_at_once(platform: Platform, start: Start) -> None:
    worker = start()
    eventually(lambda: platform.takes and platform.pings)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert worker.alive_in_group() == []
    eventually(lambda: worker.said("worker.stopped"))
    assert not worker.said("Traceback")


def test_sigterm_lets_the_job_finish_and_its_result_arrive(
    img2vid: Job, settings: Settings, platform: Platform, start: Start
) -> None:
    platform.refuse = 1  # the SDK tries again two seconds later, when the job itself is long over
    platform.give(img2vid(duration=2))
    worker = start()
    eventually(lambda: list(settings.work_dir.glob("*/output-video.mp4")))
    worker.terminate()
    worker.terminate()
    takes = platform.takes
    platform.give(img2vid())
    assert worker.wait(PATIENCE_S) == 0
    [end] = platform.ends
    assert Path(end["output"]["outputs"]["video"]["path"]).exists()
    assert (platform.takes, len(platform.jobs)) == (takes, 1)
    assert list(settings.work_dir.glob("attempt-*")) == []
    assert worker.alive_in_group() == []


def test_a_job_taken_just_before_sigterm_is_run(img2vid: Job, platform: Platform, start: Start) -> None:
    worker = start()
    eventually(lambda: platform.takes)
    platform.give(img2vid())
    eventually(lambda: not platform.jobs)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert len(platform.ends) == 1


def test_an_error_is_json_and_no_log_line_holds_a_secret(
    caption: Job, files: FileServer, platform: Platform, start: Start
) -> None:
    platform.give(caption(url_video=files.url("/none?password=s3cret")))
    worker = start()
    eventually(lambda: platform.ends)
    assert set(platform.ends[0]) == {"error"}
    assert _error(platform.ends[0])["code"] == "asset_not_found"
    worker.terminate()
    worker.wait(PATIENCE_S)
    assert not worker.said("s3cret")
    assert not worker.said("Traceback")


def test_log_lines_are_json_that_runpod_does_not_cut(
    img2vid: Job, settings: Settings, platform: Platform, start: Start, tmp_path: Path
) -> None:
    chatty = _stand_in(
        tmp_path, "ffmpeg", 'case "$*" in *lavfi*) ;; *) seq 1 5000 | sed "s/.*/é \\"&\\" &&&&&&/" >&2; exit 1;; esac'
    )
    id_ = platform.give(img2vid())
    worker = start(PATH=chatty)
    eventually(lambda: platform.ends)
    assert _error(platform.ends[0])["code"] == "encode_failed"
    worker.terminate()
    worker.wait(PATIENCE_S)
    banner, *lines = worker.lines
    assert banner.startswith("--- Starting Serverless Worker")
    events = [json.loads(line) for line in lines]
    assert max(map(len, lines)) <= 4096
    [tail] = [event for event in events if event.get("event") == "ffmpeg.errors_printed"]
    assert tail["tail"].endswith("500050005000500050005000")
    assert tail["requestId"] == id_


def test_an_unexpected_error_is_posted_without_its_traceback(
    img2vid: Job, settings: Settings, platform: Platform, start: Start
) -> None:
    worker = start()
    eventually(lambda: platform.takes)
    shutil.rmtree(settings.work_dir)
    settings.work_dir.write_text("a file where the folder was")
    platform.give(img2vid())
    eventually(lambda: platform.ends)
    assert platform.ends == [{"error": platform.ends[0]["error"]}]
    assert _error(platform.ends[0]) == {
        "code": "worker_error",
        "message": "The worker failed unexpectedly.",
        "retryable": True,
    }
    eventually(lambda: worker.said("FileExistsError"))


def test_a_worker_on_which_no_encoder_works_asks_to_be_replaced(
    img2vid: Job, platform: Platform, start: Start, tmp_path: Path
) -> None:
    platform.give(img2vid())
    worker = start(PATH=_stand_in(tmp_path, "ffmpeg", "echo no such encoder >&2; exit 1"))
    eventually(lambda: platform.ends)
    assert platform.ends[0]["stopPod"] is True
    assert _error(platform.ends[0])["code"] == "encoder_unavailable"
    eventually(lambda: worker.said("worker.encoder_missing"))


def test_a_worker_without_ffmpeg_is_unfit_and_takes_no_job(platform: Platform, start: Start, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    worker = start(PATH=str(tmp_path / "bin"))
    assert worker.wait(PATIENCE_S) == 1
    assert platform.takes == 0
    assert any("status=unhealthy" in ping and "ffmpeg" in ping for ping in platform.pings)


@pytest.fixture
def slow_image(files: FileServer, media: Path) -> str:
    """The URL of an image that takes longer to fetch than the first pause of progress."""
    files.routes["/slow.png"] = Reply(body=(media / "image.png").read_bytes(), pause_s=runpod_progress.PERIOD_S + 0.3)
    return files.url("/slow.png")


def test_progress_is_relayed_without_events_and_the_end_comes_last(
    img2vid: Job, slow_image: str, platform: Platform, start: Start
) -> None:
    platform.refuse = 1  # so that the first progress is posted again two seconds later, when the job has ended
    platform.give(img2vid(url_image=slow_image))
    start()
    eventually(lambda: platform.ends)
    *progress, end = platform.posts
    told = [post["output"]["progress"] for post in progress]
    assert told and told == sorted(told) and 0 < told[-1] < runpod_progress.UNTIL
    assert "path" in end["output"]["outputs"]["video"]
    time.sleep(3)  # for what is late
    assert platform.posts[-1] == end


def _stand_in(folder: Path, name: str, script: str) -> str:
    """A PATH on which `name` runs `script`, and then the real one."""
    real = shutil.which(name)
    path = folder / "stand-ins" / name
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n{script}\nexec {real} "$@"\n')
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"

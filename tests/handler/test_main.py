"""`handler.__main__`: the worker for RunPod, and single jobs with its real SDK."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import handler.__main__ as main
from ffmpeg_ops.operation import OPERATIONS
from handler import attempt, runpod_progress
from handler.__main__ import handle
from handler.settings import Settings
from scripts.docs import with_urls
from tests.conftest import ROOT
from tests.handler.conftest import LONG
from tests.handler.support import Gateway, Job, environment, ffmpegs
from tests.servers import STOP_S, FileServer, Reply

MP4 = b"\0\0\0\x08ftyp"
SAMPLE = {"video": "video.mp4", "image": "photo.jpg", "audio": "narration.mp3", "subtitles": "captions.en.srt"}
SAMPLE["media"] = SAMPLE["video"]


def example(given: dict[str, Any]) -> dict[str, Any]:
    """The params of a test input."""
    return {key: value for key, value in given["input"].items() if key != "operation"}


def _handle(raw: dict[str, Any], settings: Settings) -> dict[str, Any]:
    return asyncio.run(handle(raw, settings))


def test_the_result_can_be_sent_as_json(caption: Job, settings: Settings) -> None:
    result = _handle({"id": "1", "input": caption()}, settings)
    assert json.loads(json.dumps(result)) == result
    assert Path(result["outputs"]["video"]["path"]).exists()


def test_an_error_is_one_json_string(caption: Job, settings: Settings, files: FileServer) -> None:
    result = _handle({"id": "1", "input": caption(url_video=files.url("/none"))}, settings)
    assert set(result) == {"error"}
    assert json.loads(result["error"]) == {
        "code": "asset_not_found",
        "message": "url_video: the server returned HTTP status 404.",
        "retryable": False,
    }


@pytest.mark.parametrize("job", [{}, {"input": None}, {"input": "caption"}, {"input": {}}])
def test_a_job_without_input_is_refused_not_a_crash(job: dict[str, Any], settings: Settings) -> None:
    assert json.loads(_handle(job, settings)["error"])["code"] == "invalid_params"


def test_a_cancelled_task_stops_ffmpeg(img2vid: Job, settings: Settings) -> None:
    async def cancelled() -> None:
        """Cancel the job as the SDK does, and wait until it has stopped."""
        task = asyncio.create_task(handle({"id": "1", "input": img2vid(**LONG)}, settings))
        while not list(settings.work_dir.glob("*/output-video.mp4")):
            await asyncio.sleep(0.02)
            assert not task.done()
        task.cancel()
        await asyncio.wait([task], timeout=STOP_S)
        assert task.cancelled()

    asyncio.run(cancelled())
    assert ffmpegs() == []
    assert list(settings.work_dir.glob("attempt-*")) == []


def test_the_event_loop_is_free_while_work_is_done(img2vid: Job, settings: Settings, files: FileServer) -> None:
    """The download ends only after the loop has had a turn."""
    turned, picture = threading.Event(), files.routes["/image.png"]
    files.routes["/gated.png"] = lambda request: picture if turned.wait(STOP_S) else Reply(404)  # type: ignore[return-value]

    async def both() -> dict[str, Any]:
        task = asyncio.create_task(handle({"input": img2vid(url_image=files.url("/gated.png"))}, settings))
        while not files.requests:
            await asyncio.sleep(0.01)
        turned.set()
        return await task

    assert "stats" in asyncio.run(both())


@pytest.mark.parametrize(
    "stats",
    [{"duration_s": float("inf")}, {"warnings": ["\ud800"]}, {"warnings": [chr(233) * 2000] * 500}],
    ids=["inf", "surrogate", "large"],
)
def test_a_result_that_cannot_be_sent_is_a_worker_error(
    img2vid: Job, settings: Settings, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any]
) -> None:
    odd = types.ModuleType("odd.run")
    odd.run = lambda work, params, assets: work.output("video").write_bytes(MP4) and stats  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "odd.run", odd)
    monkeypatch.setattr(attempt, "OPERATIONS", {"img2vid": replace(OPERATIONS["img2vid"], package="odd")})
    for raw in (img2vid(), img2vid(delivery=gateway.delivery())):
        answer = _handle({"id": "1", "input": raw}, settings)
        assert set(answer) == {"error"} and len(answer["error"]) < 3000
        error = json.loads(answer["error"])
        assert error["code"] == "worker_error"
    assert gateway.milestones == ["started", "failed"]
    assert gateway.events[-1]["error"] == error


def test_an_exception_that_is_no_job_error_is_a_worker_error(
    img2vid: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("postgres://user:s3cret@host")

    monkeypatch.setattr(main, "run_attempt", broken)
    answer = _handle({"id": "1", "input": img2vid()}, settings)
    assert json.loads(answer["error"])["code"] == "worker_error"
    assert "s3cret" not in answer["error"]


def test_only_the_progress_of_a_job_without_events_is_relayed(
    img2vid: Job, settings: Settings, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
) -> None:
    monkeypatch.setattr(runpod_progress, "PERIOD_S", 0.0)
    sent: list[tuple[dict[str, Any], Any]] = []

    def run(raw: dict[str, Any]) -> None:
        asyncio.run(handle({"id": "1", "input": raw}, settings, lambda job, progress: sent.append((job, progress))))

    run(img2vid(delivery=gateway.delivery()))
    assert sent == []
    run(img2vid(delivery=gateway.delivery(events=None)))
    assert sent[0][0]["id"] == "1"
    assert sent[0][1] == {"progress": 0.05}


# ---- the real SDK


def _main(settings: Settings, cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "handler", *arguments],
        cwd=cwd,
        env=environment(settings, **env),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_failing_test_input_exits_1_with_the_error(
    caption: Job, settings: Settings, tmp_path: Path, files: FileServer
) -> None:
    raw = {"input": caption(url_video=files.url("/none?password=s3cret"))}
    done = _main(settings, tmp_path, "--test_input", json.dumps(raw))
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert '"code": "asset_not_found"' in said
    assert "Traceback" not in said
    assert "s3cret" not in said


@pytest.mark.slow
def test_the_test_input_of_the_repository_works(settings: Settings, tmp_path: Path, files: FileServer) -> None:
    given = (ROOT / "test_input.json").read_text()
    assert "http://127.0.0.1:8765/" in given
    (tmp_path / "test_input.json").write_text(given.replace("http://127.0.0.1:8765", files.origin))
    for name in ("video.mp4", "captions.en.srt"):
        files.routes[f"/{name}"] = Reply(body=(ROOT / "samples" / name).read_bytes())
    done = _main(settings, tmp_path)
    assert done.returncode == 0, done.stderr
    [output] = settings.output_dir.iterdir()
    assert output.name.startswith("caption-") and str(output) in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_has_a_test_input_that_works(
    name: str, settings: Settings, tmp_path: Path, files: FileServer
) -> None:
    given = json.loads((ROOT / f"handler/test_inputs/{name}.json").read_text())
    assert given["input"]["operation"] == name
    operation = OPERATIONS[name]
    assets = operation.named_assets(params := operation.params().load(example(given)))
    for asset in assets:
        assert asset.url.startswith("https://")
        files.routes[f"/{asset.kind}"] = Reply(body=(ROOT / "samples" / SAMPLE[asset.kind]).read_bytes())
    given = with_urls(given, {f"input.{asset.path}": files.url(f"/{asset.kind}") for asset in assets})
    done = _main(settings, tmp_path, "--test_input", json.dumps(given))
    assert done.returncode == 0, done.stderr
    made = [path.name.partition("-")[0] for path in settings.output_dir.glob("*")]
    assert made == [name] * len(operation.declared(params))


def test_wrong_settings_end_it_and_are_all_named(settings: Settings, tmp_path: Path) -> None:
    done = _main(settings, tmp_path, LOG_LEVEL="LOUD", WORKER_PORT="many")
    assert done.returncode not in {0, None}
    assert "LOG_LEVEL" in done.stderr
    assert "WORKER_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hijacked_ffprobe_does_not_see_the_secrets(caption: Job, settings: Settings, tmp_path: Path) -> None:
    secret = "canary-secret-of-the-worker"
    spy = tmp_path / "bin" / "ffprobe"
    spy.parent.mkdir()
    spy.write_text(
        "#!/bin/sh\n"
        f"for each in /proc/[0-9]*; do tr '\\0' '\\n' <$each/environ | grep {secret}; done >found 2>/dev/null\n"
        'echo "looked at $(ls -d /proc/[0-9]* | wc -l), found: $(wc -c <found)" >&2\nexit 1\n'
    )
    spy.chmod(0o755)
    environ = {"PATH": f"{spy.parent}:{os.environ['PATH']}", "LOG_LEVEL": "DEBUG", "X_SECRET": secret}
    done = _main(settings, tmp_path, "--test_input", json.dumps({"input": caption()}), **environ)
    found = re.search(r"looked at (\d+), found: (\d+)", done.stdout + done.stderr)
    assert found and int(found[1]) > 2 and found[2] == "0"


def test_the_worker_adopts_what_its_commands_leave_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def sweep(root: Path) -> int:
        called.append("sweep")
        raise KeyboardInterrupt

    monkeypatch.setattr(main.sandbox, "hide", lambda: None)
    monkeypatch.setattr(main.logs, "configure", lambda level: None)
    monkeypatch.setattr(main.hide_foreign_gpus, "configure", lambda settings: None)
    monkeypatch.setattr(main.orphans, "adopt", lambda: called.append("adopt"))
    monkeypatch.setattr(main.workdir, "sweep", sweep)
    with pytest.raises(KeyboardInterrupt):
        main.main()
    assert called == ["adopt", "sweep"]

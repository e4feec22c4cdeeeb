"""The platform's own SDK, both halves of it, against the stand-in. Workers here are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.emulators.conftest import Caller, PlayedWorker, processes
from tests.emulators.runpod import Emulator
from tests.handler.support import alive, ffmpegs
from tests.servers import PATIENCE_S, STOP_S, FileServer, Reply, eventually


@pytest.fixture
def media(files: FileServer, samples: Path) -> FileServer:
    for path in samples.iterdir():
        files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())
    return files


@pytest.fixture
def running(emulator: Emulator, media: FileServer) -> Emulator:
    """The endpoint with real workers that are not waited for longer than they take."""
    emulator.configure(max_workers=1, long_poll_s=20, queue_delay_s=0, env={"FETCH_ALLOW_ORIGINS": media.origin})
    return emulator


def adiciona_audio(media: FileServer) -> dict[str, Any]:
    return {
        "operation": "adicionaAudio",
        "url_video": media.url("/video.mp4"),
        "url_audio": media.url("/narration.mp3"),
    }


def endless(media: FileServer) -> dict[str, Any]:
    """An input that keeps FFmpeg busy for a minute."""
    return {"operation": "img2vid", "url_image": media.url("/photo.jpg"), "duration": 60, "frame_rate": 60}


def encoding(emulator: Emulator) -> int:
    """The process id of a worker's FFmpeg, once there is one."""

    def found() -> list[int]:
        started = [worker.process.pid for worker in emulator.fleet.all() if worker.process]
        return [ffmpeg for pid in started for ffmpeg in ffmpegs(pid)]

    eventually(found)
    return found()[0]


# ---- the SDK's client


@pytest.fixture
def endpoint(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import runpod

    # What RUNPOD_ENDPOINT_BASE_URL sets when the SDK is imported.
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{emulator.url}/v2")
    made = runpod.Endpoint(emulator.config.endpoint_id, api_key=emulator.config.api_key)
    yield made
    made.rp_client.rp_session.close()


def test_the_sdks_client_runs_a_job(endpoint: Any, worker: PlayedWorker) -> None:
    job = endpoint.run({"input": {"a": 1}})
    assert job.status() == "IN_QUEUE"
    assert worker.take() == {"id": job.job_id, "input": {"a": 1}}
    assert job.status() == "IN_PROGRESS"
    worker.done(job.job_id, output={"b": 2})
    assert job.output(timeout=60) == {"b": 2}
    assert job.status() == "COMPLETED"
    assert endpoint.health()["jobs"]["completed"] == 1


def test_the_sdks_client_cancels_and_purges(endpoint: Any) -> None:
    job = endpoint.run({"input": {"a": 1}})
    assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
    assert job.status() == "CANCELLED"
    endpoint.run({"input": {"a": 1}})
    assert endpoint.purge_queue()["removed"] == 1


def test_the_sdks_client_raises_for_a_wrong_key(emulator: Emulator, endpoint: Any) -> None:
    emulator.configure(api_key="another")
    with pytest.raises(RuntimeError, match="401"):
        endpoint.health()


# ---- the SDK's worker


@pytest.mark.slow
def test_the_sdks_worker_does_a_job_and_leaves_when_idle(running: Emulator, media: FileServer, caller: Caller) -> None:
    running.configure(idle_timeout_s=0.5)
    job_id = caller.run(adiciona_audio(media))
    eventually(lambda: caller.status(job_id)["status"] in {"COMPLETED", "FAILED"})
    ended = caller.status(job_id)
    assert ended["status"] == "COMPLETED", ended
    assert ended["output"]["stats"]["frames"] == 132
    assert Path(ended["output"]["outputs"]["video"]["path"]).stat().st_size == ended["output"]["stats"]["size_bytes"]
    assert 0 < ended["executionTime"] <= ended["executionTime"] + ended["delayTime"] < PATIENCE_S * 1000
    eventually(lambda: caller.health()["workers"]["idle"] == 1)
    [worker] = running.fleet.all()
    assert worker.process and worker.guard
    group = worker.guard.pid
    eventually(lambda: running.fleet.all() == [])
    assert worker.process.returncode == 0
    assert processes(group) == []
    # long polls, not questions at once: a job, the wait for the next one, and the leave
    assert running.calls["job-take"] <= 3
    assert running.calls["ping"] >= 1


@pytest.mark.slow
def test_a_killed_worker_s_job_runs_once_more_and_then_fails(
    running: Emulator, media: FileServer, caller: Caller
) -> None:
    running.configure(max_workers=2)
    job_id = caller.run(endless(media))
    ffmpeg = encoding(running)
    kill = running.inject("kill", "hand-over")
    running.fleet.kill(caller.status(job_id)["workerId"])
    eventually(lambda: caller.status(job_id)["retries"] == 1)
    eventually(lambda: not alive(ffmpeg), STOP_S)
    eventually(lambda: caller.status(job_id)["status"] == "FAILED")
    assert caller.status(job_id)["error"] == "job timed out after 1 retries"
    assert kill.hits == 1
    assert caller.health()["workers"]["unhealthy"] == 0


@pytest.mark.slow
def test_a_worker_that_must_leave_finishes_its_job(running: Emulator, media: FileServer, caller: Caller) -> None:
    job_id = caller.run({**endless(media), "duration": 2, "frame_rate": 24})
    encoding(running)
    running.configure(max_workers=0)
    second = caller.run(adiciona_audio(media))
    eventually(lambda: caller.status(job_id)["status"] == "COMPLETED")
    eventually(lambda: running.fleet.all() == [])
    assert caller.status(second)["status"] == "IN_QUEUE"
    assert caller.status(job_id)["retries"] == 0

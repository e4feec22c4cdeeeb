"""The platform's own SDK, both halves of it, against the stand-in. Workers here are real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT
from tests.emulators.conftest import Caller, MakeEmulator, PlayedWorker
from tests.emulators.runpod import Emulator
from tests.handler.support import STOP_S, alive
from tests.servers import FileServer, Reply, eventually

Call = Callable[[Emulator], Caller]
START_S = 20.0
# a program that does nothing and does not end
SLEEPER = ("sleep", "600")


@pytest.fixture
def media(files: FileServer, samples: Path) -> FileServer:
    for path in samples.iterdir():
        files.routes[f"/{path.name}"] = Reply(body=path.read_bytes())
    return files


@pytest.fixture
def start(make_emulator: MakeEmulator, media: FileServer) -> Callable[..., Emulator]:
    """An endpoint with real workers that are not waited for longer than they take."""

    def make(**fields: Any) -> Emulator:
        env = {"FETCH_ALLOW_ORIGINS": media.origin}
        return make_emulator(**{"max_workers": 1, "long_poll_s": 20, "queue_delay_s": 0, "env": env, **fields})

    return make


def adiciona_audio(media: FileServer) -> dict[str, Any]:
    return {
        "operation": "adicionaAudio",
        "url_video": media.url("/video.mp4"),
        "url_audio": media.url("/narration.mp3"),
    }


def endless(media: FileServer) -> dict[str, Any]:
    """An input that keeps FFmpeg busy for a minute."""
    return {"operation": "img2vid", "url_image": media.url("/photo.jpg"), "duration": 60, "frame_rate": 60}


def processes(group: int) -> list[tuple[int, str]]:
    """(process id, name) of the living processes of a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            head, _, rest = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, _, pgrp = rest.split()[:3]
        if int(pgrp) == group and state != "Z":
            found.append((int(folder.name), head.partition("(")[2]))
    return found


def ffmpegs() -> list[int]:
    """FFmpeg processes that a worker of this test run has started."""
    return [
        int(pid) for pid in subprocess.run(["pgrep", "-x", "ffmpeg"], capture_output=True, text=True).stdout.split()
    ]


def encoding(emulator: Emulator) -> int:
    """The process id of the FFmpeg below the only worker, once there is one."""
    found: list[int] = []

    def look() -> bool:
        parents = {worker.process.pid for worker in emulator.fleet.all() if worker.process}
        for pid in ffmpegs():
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent in parents:
                found.append(pid)
        return bool(found)

    eventually(look, START_S)
    return found[0]


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
    assert job.output(timeout=5) == {"b": 2}
    assert job.status() == "COMPLETED"
    assert endpoint.health()["jobs"]["completed"] == 1


def test_the_sdks_client_cancels_and_purges(endpoint: Any) -> None:
    job = endpoint.run({"input": {"a": 1}})
    assert job.cancel() == {"id": job.job_id, "status": "CANCELLED"}
    assert job.status() == "CANCELLED"
    endpoint.run({"input": {"a": 1}})
    assert endpoint.purge_queue()["removed"] == 1


def test_the_sdks_client_is_told_of_a_wrong_key(emulator: Emulator, endpoint: Any) -> None:
    emulator.configure(api_key="another")
    with pytest.raises(RuntimeError, match="401"):
        endpoint.health()


# ---- workers that only begin and end


def workers(emulator: Emulator) -> dict[str, int]:
    return emulator.fleet.counts()


def test_no_worker_begins_without_a_job_and_the_first_job_starts_one(
    start: Callable[..., Emulator], call: Call
) -> None:
    emulator = start(command=SLEEPER, max_workers=3, queue_delay_s=60)
    time.sleep(0.2)
    assert emulator.fleet.all() == []
    call(emulator).run(), call(emulator).run()
    eventually(lambda: workers(emulator)["initializing"] == 1)
    time.sleep(0.2)
    assert workers(emulator)["initializing"] == 1


def test_jobs_that_wait_too_long_start_more_workers_up_to_the_limit(start: Callable[..., Emulator], call: Call) -> None:
    emulator = start(command=SLEEPER, max_workers=3, queue_delay_s=0.5)
    for _ in range(5):
        call(emulator).run()
    eventually(lambda: workers(emulator)["initializing"] == 1)
    eventually(lambda: workers(emulator)["initializing"] == 3)
    time.sleep(0.2)
    assert len(emulator.fleet.all()) == 3


def test_the_cold_start_is_waited_for(start: Callable[..., Emulator]) -> None:
    emulator = start(command=SLEEPER, min_workers=1, cold_start_s=0.5)
    eventually(lambda: workers(emulator)["initializing"] == 1)
    assert emulator.fleet.all()[0].process is None
    eventually(lambda: emulator.fleet.all()[0].process, 2)


@pytest.mark.parametrize("none", [{"max_workers": 0}, {"throttled": 2}])
def test_without_a_worker_jobs_wait(start: Callable[..., Emulator], call: Call, none: dict[str, int]) -> None:
    emulator = start(command=SLEEPER, **{"max_workers": 2, **none})
    caller = call(emulator)
    job_id = caller.run()
    time.sleep(0.3)
    assert caller.status(job_id)["status"] == "IN_QUEUE"
    assert caller.health()["workers"] == dict.fromkeys(workers(emulator), 0) | {"throttled": none.get("throttled", 0)}
    emulator.configure(max_workers=1, throttled=0)
    eventually(lambda: workers(emulator)["initializing"] == 1)


def test_max_workers_0_ends_those_that_are_there(start: Callable[..., Emulator]) -> None:
    emulator = start(command=SLEEPER, min_workers=2, max_workers=2)
    eventually(lambda: sum(worker.process is not None for worker in emulator.fleet.all()) == 2)
    pids = [worker.process.pid for worker in emulator.fleet.all() if worker.process]
    emulator.configure(max_workers=0)
    eventually(lambda: not any(alive(pid) for pid in pids) and emulator.fleet.all() == [])


@pytest.mark.parametrize("crash", ["command", "fault"])
def test_crashing_workers_are_unhealthy_and_tried_again(start: Callable[..., Emulator], call: Call, crash: str) -> None:
    emulator = start(command=("false",) if crash == "command" else SLEEPER, crash_pause_s=0.3, max_workers=0)
    if crash == "fault":
        emulator.inject("crash", "start", times=2)
    caller = call(emulator)
    job_id = caller.run()
    emulator.configure(max_workers=1)
    eventually(lambda: caller.health()["workers"]["unhealthy"] == 1)
    for _ in range(10):
        assert caller.health()["workers"]["unhealthy"] == 1
        assert caller.health()["workers"]["initializing"] == 0
        time.sleep(0.05)
    assert caller.status(job_id)["status"] == "IN_QUEUE"
    emulator.configure(command=SLEEPER)
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process and not emulator.fleet._resting)


def test_a_worker_that_ignores_sigterm_is_killed_with_all_its_children(start: Callable[..., Emulator]) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600")
    emulator = start(command=stubborn, min_workers=1, stop_grace_s=0.3)
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process)
    [worker] = emulator.fleet.all()
    assert worker.guard
    group = worker.guard.pid
    eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
    emulator.configure(min_workers=0, max_workers=0)
    time.sleep(0.15)
    assert processes(group)
    eventually(lambda: processes(group) == [], 3)


def test_nothing_survives_a_kill_of_the_stand_in(tmp_path: Path) -> None:
    program = (
        "import time; from tests.emulators.runpod import Config, Emulator\n"
        "with Emulator(Config(min_workers=1, cold_start_s=0, command=('sh', '-c', 'sleep 600 & sleep 600'))) as e:\n"
        "    while not (e.fleet.all() and e.fleet.all()[0].process): time.sleep(0.01)\n"
        "    print(e.fleet.all()[0].guard.pid, e.home, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        group = int(process.stdout.readline().split()[0])
        eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: processes(group) == [], 2)


# ---- the SDK's worker


@pytest.mark.slow
def test_the_sdks_worker_does_a_job_and_leaves_when_idle(
    start: Callable[..., Emulator], media: FileServer, call: Call
) -> None:
    emulator = start(idle_timeout_s=0.5)
    caller = call(emulator)
    job_id = caller.run(input=adiciona_audio(media))
    eventually(lambda: caller.status(job_id)["status"] in {"COMPLETED", "FAILED"}, START_S)
    ended = caller.status(job_id)
    assert ended["status"] == "COMPLETED", ended
    assert ended["output"]["stats"]["frames"] == 132
    assert Path(ended["output"]["output_path"]).stat().st_size == ended["output"]["stats"]["size_bytes"]
    assert 0 < ended["executionTime"] <= ended["executionTime"] + ended["delayTime"] < START_S * 1000
    eventually(lambda: caller.health()["workers"]["idle"] == 1)
    [worker] = emulator.fleet.all()
    assert worker.process and worker.guard
    group = worker.guard.pid
    eventually(lambda: emulator.fleet.all() == [], 5)
    assert worker.process.returncode == 0
    assert processes(group) == []
    # long polls, not questions at once: a job, the wait for the next one, and the leave
    assert emulator.calls["job-take"] <= 3
    assert emulator.calls["ping"] >= 1


@pytest.mark.slow
def test_a_cancel_reaches_ffmpeg_and_the_worker_goes_on(
    start: Callable[..., Emulator], media: FileServer, call: Call
) -> None:
    emulator = start()
    caller = call(emulator)
    job_id = caller.run(input=endless(media))
    ffmpeg = encoding(emulator)
    caller.post(f"cancel/{job_id}")
    eventually(lambda: not alive(ffmpeg), STOP_S)
    assert caller.status(job_id)["status"] == "CANCELLED"
    again = caller.run(input=adiciona_audio(media))
    eventually(lambda: caller.status(again)["status"] == "COMPLETED", START_S)
    assert caller.status(again)["workerId"] == caller.status(job_id)["workerId"]


@pytest.mark.slow
def test_a_killed_worker_s_job_runs_once_more_and_then_fails(
    start: Callable[..., Emulator], media: FileServer, call: Call
) -> None:
    emulator = start(max_workers=2)
    caller = call(emulator)
    job_id = caller.run(input=endless(media))
    ffmpeg = encoding(emulator)
    kill = emulator.inject("kill", "hand-over")
    emulator.fleet.kill(caller.status(job_id)["workerId"])
    eventually(lambda: caller.status(job_id)["retries"] == 1, 5)
    eventually(lambda: not alive(ffmpeg), STOP_S)
    eventually(lambda: caller.status(job_id)["status"] == "FAILED", START_S)
    assert caller.status(job_id)["error"] == "job timed out after 1 retries"
    assert kill.hits == 1
    assert caller.health()["workers"]["unhealthy"] == 0


@pytest.mark.slow
def test_a_worker_that_must_leave_finishes_its_job(
    start: Callable[..., Emulator], media: FileServer, call: Call
) -> None:
    emulator = start()
    caller = call(emulator)
    job_id = caller.run(input={**endless(media), "duration": 2, "frame_rate": 24})
    encoding(emulator)
    emulator.configure(max_workers=0)
    second = caller.run(input=adiciona_audio(media))
    eventually(lambda: caller.status(job_id)["status"] == "COMPLETED", START_S)
    eventually(lambda: emulator.fleet.all() == [], 5)
    assert caller.status(second)["status"] == "IN_QUEUE"
    assert caller.status(job_id)["retries"] == 0


def test_a_further_face_can_be_mounted() -> None:
    from flask import Blueprint

    from tests.emulators.runpod import Config

    management = Blueprint("management", __name__, url_prefix="/v2/serverless")
    management.add_url_rule("", "list", lambda: {"endpoints": []})
    management.add_url_rule("/<key>", "patch", lambda key: {"id": key}, methods=["PATCH"])
    with Emulator(Config(), [management]) as emulator:
        assert requests.get(f"{emulator.url}/v2/serverless", timeout=5).json() == {"endpoints": []}
        assert requests.patch(f"{emulator.url}/v2/serverless/x", timeout=5).json() == {"id": "x"}

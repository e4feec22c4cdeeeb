"""Twenty concurrent jobs through RunPod while it fails: a real gateway, real workers, real FFmpeg."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from werkzeug.serving import WSGIRequestHandler, make_server

from gateway import create_app
from gateway.__main__ import prepare
from gateway.configuration import read_settings
from gateway.dispatch import limits, poll_schedule
from gateway.domain.attempts import Attempt, AttemptState
from gateway.wiring import Services
from scripts.client import Client
from scripts.stack import free_port
from tests.chaos.scenery import counting
from tests.conftest import SAMPLES
from tests.emulators.runpod import Config, Emulator
from tests.emulators.runpod.faults import Fault
from tests.end_to_end.processes import ffmpeg_children, freeze
from tests.servers import FileServer, Reply, eventually, file_server

pytestmark = pytest.mark.slow

JOBS = 20
KEY = "a-key-of-the-tests-alone"


@dataclass
class Cloud:
    """A gateway in this process and an endpoint with workers of its own."""

    runpod: Emulator
    services: Services
    url: str
    files: FileServer
    encodes: Path

    def jobs(self, count: int = JOBS) -> list[dict[str, Any]]:
        """Submit that many jobs at once, and follow them to their ends."""
        params = {"url_video": self.files.url("/video.mp4"), "url_audio": self.files.url("/narration.mp3")}
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self._job(params), range(count)))

    def _job(self, params: dict[str, Any]) -> dict[str, Any]:
        headers, ends_at = {"X-API-Key": KEY, "Prefer": "wait=30"}, time.monotonic() + 90
        answer = requests.post(f"{self.url}/video/adicionaAudio", json=params, headers=headers, timeout=40)
        while answer.status_code == 202 and time.monotonic() < ends_at:
            answer = requests.get(self.url + answer.headers["Location"], headers=headers, timeout=40)
        return dict(answer.json())

    def ffmpeg(self) -> list[int]:
        """The ids of all FFmpeg processes of the workers."""
        workers = [worker.process.pid for worker in self.runpod.fleet.all() if worker.process]
        return [pid for worker in workers for pid in ffmpeg_children(worker)]

    def given_up(self, jobs: list[dict[str, Any]]) -> int:
        """How many claimed attempts lost their worker, according to the gateway or to RunPod.

        Each may have encoded, and a slow machine causes some. But none is given up while it still reports, and the next
        one starts only afterwards.
        """
        given_up = 0
        for job in jobs:
            *earlier, last = self.services.store.attempts(job["jobId"])
            assert last.state is AttemptState.DONE
            for attempt in earlier:
                assert attempt.state is AttemptState.FAILED and attempt.ended_at is not None
                assert attempt.ended_at <= last.created_at
                if attempt.claimed_at is not None:
                    silent_ms = attempt.ended_at - (attempt.heard_at or attempt.claimed_at)
                    assert attempt.error_code == "worker_lost"
                    assert silent_ms > limits.SILENCE_MS or self._lost_there(attempt), "it still reported"
                    given_up += 1
        return given_up

    def _lost_there(self, attempt: Attempt) -> bool:
        """Whether RunPod has forgotten the job, or handed it over a second time."""
        job = self.runpod.queue.get(attempt.remote_id or "")
        return job is None or job.retries > 0

    def encoded(self) -> int:
        """How many encodes were started."""
        return len(self.encodes.read_text().splitlines()) if self.encodes.exists() else 0


@pytest.fixture(scope="module")
def module_files() -> Iterator[FileServer]:
    with file_server() as server:
        for name in ("video.mp4", "narration.mp3"):
            server.routes[f"/{name}"] = Reply(body=(SAMPLES / name).read_bytes())
        yield server


@pytest.fixture(scope="module")
def cloud(module_files: FileServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("cloud")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {"FETCH_ALLOW_ORIGINS": f"{url},{module_files.origin}", "PATH": f"{counting(home)}:{os.environ['PATH']}"}
    command = (sys.executable, "-m", "tests.end_to_end.open_worker")
    quick = {"cold_start_s": 0, "queue_delay_s": 1, "crash_pause_s": 1, "lost_after_s": 5}
    config = Config(command=command, min_workers=2, max_workers=3, env=env, **quick)
    with pytest.MonkeyPatch.context() as patch, Emulator(config) as runpod:
        patch.setattr(limits, "SILENCE_MS", 8_000)
        patch.setattr(limits, "AMBIGUOUS_MS", 4_000)
        patch.setattr(poll_schedule, "FIRST_WITH_EVENTS_MS", 500)  # so that there are polls for faults to strike
        environ = {
            **runpod.gateway_environ,
            "PUBLIC_URL": url,
            "PORT": str(port),
            "DATA_DIR": str(home / "data"),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
            "THREADS": "64",  # so that all clients may wait
        }
        settings = read_settings(environ)
        prepare(settings)
        app = create_app(settings)
        services: Services = app.extensions["reelay"]
        server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Quiet)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        services.dispatcher.start()
        yield Cloud(runpod, services, url, module_files, home / "encodes")
        services.dispatcher.stop()
        server.shutdown()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    def log_request(self, *args: object) -> None: ...


@pytest.fixture
def well(cloud: Cloud) -> Iterator[Cloud]:
    """The cloud with idle workers, and without leftovers of other tests."""
    cloud.runpod.faults.clear()
    before = cloud.runpod.config
    eventually(lambda: cloud.runpod.fleet.counts()["idle"] >= 2)
    cloud.encodes.unlink(missing_ok=True)
    yield cloud
    cloud.runpod.faults.clear()
    cloud.runpod.config = before
    cloud.runpod.queue.purge()
    for worker in cloud.runpod.fleet.all():
        for job in cloud.runpod.queue.held_by(worker.id):
            cloud.runpod.queue.forget(job)


FAULTS: dict[str, list[dict[str, Any]]] = {
    "429 to ten submits": [{"kind": "status", "on": "run", "status": 429, "times": 10}],
    "5xx to half of all polls": [{"kind": "status", "on": "status", "times": None, "probability": 0.5}],
    "reply lost after the effect": [{"kind": "lost_reply", "on": "run", "times": 8}],
    "request lost": [{"kind": "lost_request", "on": "run", "times": 4}],
    "slow": [{"kind": "slow", "on": "*", "times": 20, "seconds": 2}],
    "garbage": [{"kind": "garbage", "on": "run", "times": 4}, {"kind": "garbage", "on": "status", "times": 10}],
    "late progress": [{"kind": "late_progress", "on": "job-done", "times": 10, "seconds": 0.1}],
    "result too large": [{"kind": "oversize", "on": "job-done", "times": 10}],
    "result expired": [{"kind": "expired", "on": "status", "times": 5}],
    "three workers killed": [{"kind": "kill", "on": "hand-over", "times": 3, "seconds": 0.3}],
    "workers killed that then crash when they start": [
        {"kind": "kill", "on": "hand-over", "times": 2, "seconds": 0.3},
        {"kind": "crash", "on": "start", "times": 3},
    ],
}


@pytest.mark.parametrize("name", FAULTS)
def test_all_jobs_end_well(well: Cloud, name: str) -> None:
    faults: list[Fault] = [well.runpod.inject(**fault) for fault in FAULTS[name]]
    began = time.monotonic()
    jobs = well.jobs()
    print(f"{name}: {[f.hits for f in faults]} hits, {time.monotonic() - began:.1f} s, {well.encoded()} encodes,"
          f" tries {sorted(job['stats']['tries'] for job in jobs if 'stats' in job)}")  # fmt: skip
    assert [job["status"] for job in jobs] == ["completed"] * JOBS, [job.get("error") for job in jobs]
    assert JOBS <= well.encoded() <= JOBS + well.given_up(jobs)
    assert all(fault.hits for fault in faults), "a fault that never struck shows nothing"
    for job in jobs:
        head = requests.get(job["video_url"], headers={"Range": "bytes=4-7"}, timeout=10)
        assert head.content == b"ftyp"


def test_no_workers_at_all_and_then_some(well: Cloud) -> None:
    well.runpod.configure(max_workers=0, min_workers=0)
    eventually(lambda: not well.runpod.fleet.all())
    done: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: done.extend(well.jobs(5)))
    thread.start()

    def reasons() -> list[str]:
        answer = requests.get(f"{well.url}/jobs?status=queued", headers={"X-API-Key": KEY}, timeout=10)
        return [job.get("waitingFor", "") for job in answer.json()["jobs"]]

    eventually(lambda: sum("the endpoint has no workers" in reason for reason in reasons()) == 5)
    well.runpod.configure(max_workers=3, min_workers=2)
    thread.join(90)
    assert [job["status"] for job in done] == ["completed"] * 5
    assert all(job["stats"]["tries"] == 1 for job in done), "an attempt that never started is no try"
    assert well.encoded() == 5


def test_a_cancelled_job_is_taken_from_its_worker(well: Cloud) -> None:
    well.files.routes["/photo.jpg"] = Reply(body=(SAMPLES / "photo.jpg").read_bytes())
    client = Client(well.url, KEY)
    try:
        job = client.submit("img2vid", {"url_image": well.files.url("/photo.jpg"), "duration": 30})
        eventually(lambda: client.job(job["jobId"])["progress"] > 0.06)
        assert well.ffmpeg()
        freeze(well.ffmpeg())
        requests.delete(f"{well.url}/jobs/{job['jobId']}", headers={"X-API-Key": KEY}, timeout=10)
        eventually(lambda: not well.ffmpeg())
        assert client.job(job["jobId"])["status"] == "cancelled"
    finally:
        client.close()
    attempt = well.services.store.attempts(job["jobId"])[-1]
    eventually(lambda: well.runpod.job(attempt.remote_id or "")["status"] == "CANCELLED")

"""Twenty concurrent jobs through RunPod while it fails: a real gateway, real workers, real FFmpeg."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.domain.attempts import Attempt, AttemptState
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scenery import assets, encodes, endpoint, follow, insist, opened, params, running_in, settings
from tests.chaos.worker import Workers
from tests.conftest import SAMPLES
from tests.emulators.runpod import Emulator
from tests.emulators.runpod.faults import Fault
from tests.end_to_end.processes import freeze
from tests.servers import FileServer, Reply, eventually

pytestmark = pytest.mark.slow

JOBS = 20
SILENCE_MS, AMBIGUOUS_MS = 8_000, 4_000


@dataclass
class Cloud:
    """A gateway, and an endpoint with workers of its own."""

    home: Path
    runpod: Emulator
    files: FileServer
    url: str

    def jobs(self, count: int = JOBS) -> list[dict[str, Any]]:
        """Submit that many jobs at once, and follow them to their ends."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: follow(params(self.files), self.url), range(count)))

    def attempts(self, job: dict[str, Any]) -> list[Attempt]:
        with opened(self.home / "data") as store:
            return store.attempts(job["jobId"])

    def given_up(self, jobs: list[dict[str, Any]]) -> int:
        """How many claimed attempts lost their worker, according to the gateway or to RunPod.

        Each may have encoded, and a slow machine causes some. But none is given up while it still reports, and the next
        one starts only afterwards.
        """
        given_up = 0
        for job in jobs:
            *earlier, last = self.attempts(job)
            assert last.state is AttemptState.DONE
            for attempt in earlier:
                assert attempt.state is AttemptState.FAILED and attempt.ended_at is not None
                assert attempt.ended_at <= last.created_at
                if attempt.claimed_at is not None:
                    silent_ms = attempt.ended_at - (attempt.heard_at or attempt.claimed_at)
                    assert attempt.error_code == "worker_lost"
                    assert silent_ms > SILENCE_MS or self._lost_there(attempt), "it still reported"
                    given_up += 1
        return given_up

    def _lost_there(self, attempt: Attempt) -> bool:
        """Whether RunPod has forgotten the job, or handed it over a second time."""
        job = self.runpod.queue.get(attempt.remote_id or "")
        return job is None or job.retries > 0


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home, port = tmp_path_factory.mktemp("cloud"), free_port()
    with (
        closing(assets(home)) as files,
        closing(Workers()) as workers,
        endpoint(home, files, workers, 2, {}) as runpod,
        closing(Zygote()) as gateways,
    ):
        runpod.configure(max_workers=3, queue_delay_s=1, crash_pause_s=1, latency_ms=50)
        environ = {
            **runpod.gateway_environ,
            **settings(port, home / "data"),
            "THREADS": "64",  # so that all clients may wait
            "SILENCE_MS": str(SILENCE_MS),
            "AMBIGUOUS_MS": str(AMBIGUOUS_MS),
            "LOG": str(home / "gateway.log"),
        }
        gateways.start(environ)
        cloud = Cloud(home, runpod, files, f"http://127.0.0.1:{port}")
        insist("GET", f"{cloud.url}/health")
        yield cloud


@pytest.fixture
def well(cloud: Cloud) -> Iterator[Cloud]:
    """The cloud with idle workers, and without leftovers of other tests."""
    before = cloud.runpod.config
    eventually(lambda: cloud.runpod.fleet.counts()["idle"] >= 2)
    (cloud.home / "encodes").unlink(missing_ok=True)
    yield cloud
    cloud.runpod.faults.clear()
    cloud.runpod.config = before
    cloud.runpod.queue.purge()
    for worker in cloud.runpod.fleet.all():
        for job in cloud.runpod.queue.held_by(worker.id):
            cloud.runpod.queue.forget(job)


FAULTS: dict[str, list[dict[str, Any]]] = {
    "429 to ten submits": [{"kind": "status", "on": "run", "status": 429, "times": 10}],
    "5xx to ten polls": [{"kind": "status", "on": "status", "times": 10}],  # eight of them pause the calls
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
    count, tries = encodes(well.home), sorted(job["stats"]["tries"] for job in jobs if "stats" in job)
    hits, took_s = [fault.hits for fault in faults], time.monotonic() - began
    print(f"{name}: {hits} hits, {took_s:.1f} s, {count} encodes, tries {tries}")
    assert [job["status"] for job in jobs] == ["completed"] * JOBS, [job.get("error") for job in jobs]
    assert JOBS <= count <= JOBS + well.given_up(jobs)
    assert all(hits), "a fault that never struck shows nothing"
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
        jobs = insist("GET", f"{well.url}/jobs?status=queued").json()["jobs"]
        return [job.get("waitingFor", "") for job in jobs]

    eventually(lambda: sum("the endpoint has no workers" in reason for reason in reasons()) == 5)
    well.runpod.configure(max_workers=3, min_workers=2)
    thread.join(90)
    assert [job["status"] for job in done] == ["completed"] * 5
    assert all(job["stats"]["tries"] == 1 for job in done), "an attempt that never started is no try"
    assert encodes(well.home) == 5


def test_a_cancelled_job_is_taken_from_its_worker(well: Cloud) -> None:
    well.files.routes["/photo.jpg"] = Reply(body=(SAMPLES / "photo.jpg").read_bytes())
    body = {"url_image": well.files.url("/photo.jpg"), "duration": 30}
    job = insist("POST", f"{well.url}/video/img2vid", json=body).json()
    url = f"{well.url}/jobs/{job['jobId']}"
    eventually(lambda: insist("GET", url).json()["progress"] > 0.06)
    encoders = running_in(well.home)
    assert encoders
    freeze(encoders)
    assert insist("DELETE", url).json()["status"] == "cancelled"
    eventually(lambda: not running_in(well.home))
    assert insist("GET", url).json()["status"] == "cancelled"
    attempt = well.attempts(job)[-1]
    eventually(lambda: well.runpod.job(attempt.remote_id or "")["status"] == "CANCELLED")

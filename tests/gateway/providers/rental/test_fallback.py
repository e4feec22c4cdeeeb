"""PROVIDERS=runpod,vast over both stand-ins: when a job goes on to Vast.ai, when not, and what its document shows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from common.settings import read
from gateway import create_app
from gateway.api import job_request
from gateway.db.rental_store import spending
from gateway.dispatch import limits
from gateway.domain.jobs import Job, JobStatus
from gateway.providers.runpod.settings import RunPodSettings
from gateway.wiring import Services
from scripts.stack import free_port
from tests.emulators.runpod import Config
from tests.emulators.runpod import Emulator as RunPod
from tests.emulators.vast import offer
from tests.gateway.providers.conftest import taken
from tests.gateway.providers.vast_scene import Scene, rented
from tests.servers import FileServer, Reply
from wire.errors import AssetNotFound

PARAMS = {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}


@dataclass
class Chain:
    """A gateway over HTTP with both providers; its dispatcher ticks when the test says so."""

    runpod: RunPod
    scene: Scene
    services: Services
    key_id: str

    def job(self, operation: str = "caption", params: Mapping[str, Any] = PARAMS) -> Job:
        return self.services.jobs.create(self.key_id, job_request.read(operation, json.dumps(params).encode()))

    def now(self, job: Job) -> Job:
        return self.services.jobs.get(job.id, self.key_id)

    def go_on(self, seconds: float = 1.0) -> None:
        self.scene.vast.advance(seconds)
        self.services.dispatcher.tick()
        self.services.dispatcher.settle()

    def until(self, true: Callable[[], bool], most: int = 150) -> None:
        for _ in range(most):
            if true():
                return
            self.go_on()
        raise AssertionError("it did not come true")

    def completed(self, job: Job) -> Job:
        self.until(lambda: self.now(job).finished)
        assert self.now(job).status is JobStatus.COMPLETED, self.now(job)
        return self.now(job)

    def tried(self, job: Job) -> list[tuple[str, str | None]]:
        """(provider, code) of its attempts, as its document shows them."""
        shown = self.services.documents.of(self.now(job)).get("attempts", [])
        return [(attempt["provider"], attempt.get("code")) for attempt in shown]

    def why(self, job: Job) -> str:
        """Why the first attempt did not run."""
        return str(self.services.documents.of(self.now(job))["attempts"][0]["reason"])


@pytest.fixture
def chain(scene: Scene) -> Iterator[Chain]:
    with chained(scene) as chain:
        yield chain


@contextmanager
def chained(scene: Scene) -> Iterator[Chain]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, RunPod(Config(max_workers=0, latency_ms=0)) as runpod:
        # workers report in real seconds, of which none may pass while the clock is moved by minutes
        patch.setattr(limits, "SILENCE_MS", 10**9)
        settings = replace(
            scene.settings,
            providers=("runpod", "vast"),
            public_url=f"http://127.0.0.1:{port}",
            min_free_disk_percent=0,
        ).with_parts(replace(read(RunPodSettings, runpod.gateway_environ), queue_limit_s=30))
        settings.files_dir.mkdir(parents=True, exist_ok=True)
        app = create_app(settings)
        services = app.extensions["reelay"] = Services.wire(settings, clock=scene.clock)
        server = make_server("127.0.0.1", port, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield Chain(runpod, scene, services, services.keys.create("tests")[0].id)
        server.shutdown()
        thread.join()
        server.server_close()
        services.dispatcher.close()
        services.store._engine.dispose()


def test_what_runpod_refuses_vast_runs(chain: Chain) -> None:
    chain.runpod.inject("status", on="run", times=1, status=402)
    job = chain.completed(chain.job())
    assert chain.tried(job) == [("runpod", "provider_unavailable"), ("vast", None)]
    assert "no credit" in chain.why(job)
    assert (job.stats or {})["provider"] == "vast"
    assert job.cost_nano is not None
    assert job.tries == 1


def test_what_is_counted_is_what_vast_bills(chain: Chain) -> None:
    chain.runpod.inject("status", on="run", times=100, status=402)
    chain.scene.vast.configure(image_bytes=500_000_000, fetched_bytes=80_000_000)
    chain.scene.vast.account.offers[:] = [offer(1, inet_down_cost=0.02, inet_up_cost=0.01)]
    costs = [chain.completed(chain.job()).cost_nano or 0 for _ in range(3)]
    assert costs[0] > 0.02 * 1e9 * 0.58 > costs[1] > 0.02 * 1e9 * 0.08, "the first bears the pull of the image"
    bill = chain.scene.vast.bill()
    assert bill["traffic_dollars"] == pytest.approx(0.02 * (0.5 + 3 * 0.08), rel=0.001)
    spent = spending(chain.scene.store, chain.scene.clock.now_ms()).today_nano / 1e9
    assert spent == pytest.approx(bill["dollars"], rel=0.01)


@pytest.mark.slow
def test_when_runpod_is_down_and_when_it_is_back(chain: Chain) -> None:
    down = chain.runpod.inject(kind="status", on="*", status=401, times=100)
    jobs = [chain.job() for _ in range(9)]
    chain.until(lambda: down.hits >= 8)
    last = chain.job()
    chain.until(lambda: chain.now(last).attempt_id is not None and len(chain.tried(last)) == 2)
    assert "keeps failing" in chain.why(last)
    for job in [*jobs, last]:
        chain.completed(job)
        assert chain.tried(job) == [("runpod", "provider_unavailable"), ("vast", None)]
    assert len(chain.scene.all()) <= chain.scene.own.max_instances
    chain.runpod.faults.clear()
    chain.services.providers["runpod"]._breaker.succeeded()  # type: ignore[attr-defined]
    job = chain.job()
    chain.go_on()
    assert [provider for provider, _ in chain.tried(job)] == ["runpod"]


def test_when_runpod_does_not_respond(chain: Chain) -> None:
    chain.runpod.stop()
    job = chain.completed(chain.job())
    assert chain.tried(job) == [("runpod", "provider_unavailable"), ("vast", None)]
    assert "cannot be reached" in chain.why(job)


def test_a_job_that_waited_too_long_in_runpods_queue(chain: Chain) -> None:
    job = chain.completed(chain.job())
    assert chain.tried(job) == [("runpod", "no_capacity"), ("vast", None)]
    assert "no worker of runpod took the job within 30 s" in chain.why(job)
    first = chain.services.store.attempts(job.id)[0]
    assert chain.runpod.job(first.remote_id or "")["status"] == "CANCELLED"


def test_a_jobs_own_fault_goes_to_no_other_provider(chain: Chain) -> None:
    job = chain.job()
    chain.go_on()
    attempt = chain.services.store.attempt(chain.now(job).attempt_id or "")
    assert attempt is not None
    taken(chain.runpod, attempt).fail(AssetNotFound("video: 404"))
    chain.until(lambda: chain.now(job).finished)
    assert (chain.now(job).status, chain.now(job).error_code) == (JobStatus.FAILED, "asset_not_found")
    chain.go_on(60)
    assert chain.tried(job) == [("runpod", "asset_not_found")]
    assert chain.scene.creates == 0


def test_with_no_machine_at_vast_either_the_job_goes_back(chain: Chain) -> None:
    chain.scene.vast.account.offers.clear()
    chain.runpod.inject(kind="status", on="run", status=402, times=1)
    job = chain.job()
    chain.until(lambda: chain.now(job).attempt_id is not None and len(chain.tried(job)) == 3)
    assert chain.tried(job) == [("runpod", "provider_unavailable"), ("vast", "no_capacity"), ("runpod", None)]
    shown = chain.services.documents.of(chain.now(job))["attempts"][1]
    assert shown["reason"] == "Vast.ai has no machine that fits"


@pytest.mark.slow
def test_a_rented_worker_that_dies_costs_a_try_and_no_job(chain: Chain) -> None:
    chain.runpod.inject(kind="status", on="run", status=402, times=9)
    chain.scene.vast.configure(job_s=30)
    job = chain.job()
    chain.until(lambda: chain.now(job).status is JobStatus.RUNNING)
    chain.scene.vast.strike(chain.scene.vast.alive()[0].id, "vanishes")
    job = chain.completed(job)
    assert job.tries == 2
    assert chain.tried(job)[1] == ("vast", "worker_lost")


@pytest.mark.slow
def test_a_job_that_no_rented_machine_takes_goes_back_to_runpod(scene: Scene) -> None:
    scene.change(max_instances=1, queue_limit_s=60)
    scene.vast.configure(job_s=1000)
    with chained(scene) as chain:
        down = chain.runpod.inject(kind="status", on="run", status=402, times=2)
        first = chain.job()
        chain.until(lambda: chain.now(first).status is JobStatus.RUNNING)
        second, began = chain.job(), scene.clock.now_ms()
        chain.until(lambda: chain.now(second).waiting_for == "all rented machines are busy")
        chain.until(lambda: len(chain.services.store.attempts(second.id)) == 3)
        assert down.hits == 2
        waited_s = (scene.clock.now_ms() - began) / 1000
        assert 60 < waited_s < 60 + 12 + 3, "RunPod is asked at once: the wait was pause enough"
        assert chain.tried(second) == [("runpod", "provider_unavailable"), ("vast", "no_capacity"), ("runpod", None)]
        shown = chain.services.documents.of(chain.now(second))["attempts"][1]
        assert shown["reason"] == "no worker of vast took the job within 60 s: all rented machines are busy"


@pytest.mark.slow
def test_a_machine_that_boots_for_the_job_is_waited_for_past_the_limit(scene: Scene) -> None:
    scene.change(max_instances=1, queue_limit_s=30)
    scene.vast.configure(boot_s=100)
    with chained(scene) as chain:
        chain.runpod.inject(kind="status", on="run", status=402, times=2)
        first = chain.job()
        chain.go_on()
        chain.go_on()
        second = chain.job()
        gone = [("runpod", "provider_unavailable"), ("vast", "no_capacity")]
        chain.until(lambda: chain.tried(second)[:2] == gone)  # no room for two
        chain.services.jobs.cancel(second.id, chain.key_id)  # it would come back and might be the first to look
        assert chain.tried(chain.completed(first)) == [("runpod", "provider_unavailable"), ("vast", None)]


@pytest.mark.slow
def test_a_real_worker_on_a_rented_machine_makes_the_video(
    at_once: None, tmp_path: Path, database: str, files: FileServer, samples: Path
) -> None:
    files.routes["/photo.jpg"] = Reply(200, (samples / "photo.jpg").read_bytes(), {"Content-Type": "image/jpeg"})
    origins = {"FETCH_ALLOW_ORIGINS": files.origin}
    with (
        rented(tmp_path, database, pretend=False, speed=1, boot_s=1, env=origins) as scene,
        chained(scene) as chain,
    ):
        chain.runpod.stop()
        job = chain.job("img2vid", {"url_image": files.url("/photo.jpg"), "duration": 1})
        ends_at = time.monotonic() + 120
        while not chain.now(job).finished and time.monotonic() < ends_at:
            chain.go_on(0)
            time.sleep(0.2)
        job = chain.now(job)
        assert job.status is JobStatus.COMPLETED, job
        assert chain.tried(job) == [("runpod", "provider_unavailable"), ("vast", None)]
        assert (job.stats or {})["duration_s"] == pytest.approx(1, abs=0.1)
        chain.go_on(10)
        chain.go_on(310)
        chain.until(lambda: scene.vast.alive() == [])

"""The attempts of one process of the HTTP worker."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from ffmpeg_ops.operation import StopSignal
from handler import runs
from handler.runs import Busy, Runs
from handler.settings import Settings
from tests.handler.support import FOREVER_S, Gateway, Job
from tests.servers import PATIENCE_S, FileServer, Reply, eventually
from wire.errors import Cancelled, EncodeFailed, JobError


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that run until they are stopped, or fail at once with the input `fail`."""

    def attempt(raw: object, settings: Settings, stop: StopSignal, on_progress: object) -> dict[str, Any]:
        if raw == "fail":
            raise EncodeFailed
        stop.wait(FOREVER_S)
        return {}

    monkeypatch.setattr(runs, "run_attempt", attempt)


@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("ids", [10, 1])
def test_concurrent_submissions_start_one_attempt_per_slot(settings: Settings, ids: int) -> None:
    barrier, attempts, taken = threading.Barrier(10), Runs(settings), []

    def submit(attempt_id: str) -> None:
        barrier.wait(PATIENCE_S)
        try:
            taken.append(attempts.submit(attempt_id, {}))
        except Busy:
            pass

    threads = [threading.Thread(target=submit, args=(f"att_{i % ids}",)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == (1 if ids > 1 else 10)
    assert len({id(run) for run in taken}) == attempts.active() == 1
    attempts.shut_down()
    assert attempts.active() == 0


@pytest.mark.usefixtures("endless")
def test_only_the_latest_results_are_kept(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT_ENDS", 3)
    attempts = Runs(settings)
    for i in range(8):
        run = attempts.submit(f"att_{i}", "fail")
        eventually(lambda run=run: run.thread is None)  # type: ignore[misc]
    assert [i for i in range(8) if attempts.get(f"att_{i}")] == [4, 5, 6, 7]


def test_shut_down_asks_the_gateway_to_try_again(
    settings: Settings, img2vid: Job, gateway: Gateway, files: FileServer
) -> None:
    files.routes["/endless"] = Reply(pause_s=FOREVER_S)
    attempts = Runs(settings)
    run = attempts.submit("att_1", img2vid(url_image=files.url("/endless"), delivery=gateway.delivery()))
    eventually(lambda: gateway.events)
    attempts.shut_down()
    assert run.status == "failed"
    assert gateway.events[-1]["error"]["code"] == "worker_lost"
    assert gateway.events[-1]["error"]["retryable"]


@pytest.mark.parametrize("error", [Cancelled, EncodeFailed])
def test_an_ended_attempt_keeps_nothing_of_its_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: type[JobError]
) -> None:
    class Picture: ...

    seen: list[weakref.ref[Picture]] = []

    def attempt(raw: object, settings: Settings, stop: StopSignal, on_progress: object) -> dict[str, Any]:
        picture = Picture()
        seen.append(weakref.ref(picture))
        stop.set(error())
        stop.check()
        return {"picture": picture}

    monkeypatch.setattr(runs, "run_attempt", attempt)
    run = Runs(settings).submit("att_1", {})
    eventually(lambda: run.thread is None)
    gc.collect()
    assert run.document()["error"]["code"] in {"cancelled", "encode_failed"}
    assert seen[0]() is None

"""A stopped attempt ends within seconds in every stage, where it would otherwise take a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from handler import attempt as job
from handler import events
from handler.settings import Settings
from tests.handler.conftest import Job
from tests.handler.support import FOREVER_S, Attempt, Gateway, alive, deaf_server, ffmpegs
from tests.servers import STOP_S, FileServer, Reply, eventually
from wire.errors import Cancelled, WorkerLost

Begin = Callable[[], Attempt]

IN_PRODUCTION = (job.STOP_GRACE_S, events.PERIOD_S)


@pytest.fixture
def connecting(caption: Job, gateway: Gateway, settings: Settings) -> Iterator[Begin]:
    with deaf_server() as origin:
        allowing = replace(settings, fetch_allow_origins=(*settings.fetch_allow_origins, origin))
        raw = caption(url_video=f"{origin}/x", delivery=gateway.delivery())
        yield lambda: _once(lambda: list(settings.work_dir.glob("attempt-*/asset-1")), raw, allowing)


@pytest.fixture(params=["headers", "trickle", "stall"])
def fetching(
    request: pytest.FixtureRequest, caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> Begin:
    files.routes["/endless"] = {
        "headers": Reply(pause_s=FOREVER_S),
        "trickle": Reply(body=b"x" * 10_000, trickle_s=0.1),
        "stall": Reply(body=b"xx", trickle_s=FOREVER_S),
    }[request.param]
    raw = caption(url_video=files.url("/endless"), delivery=gateway.delivery())
    return lambda: _once(lambda: files.requests, raw, settings)


@pytest.fixture
def retrying(caption: Job, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """An upload that pauses before its next try."""
    monkeypatch.setattr("handler.upload.PAUSES_S", (FOREVER_S,))
    gateway.on_put = lambda request: Reply(503)
    return lambda: _once(lambda: gateway.puts, caption(delivery=gateway.delivery()), settings)


@pytest.fixture
def uploading(caption: Job, gateway: Gateway, settings: Settings) -> Begin:
    gateway.on_put = lambda request: Reply(pause_s=FOREVER_S)
    return lambda: _once(lambda: gateway.puts, caption(delivery=gateway.delivery()), settings)


@pytest.fixture
def encoding(img2vid: Job, gateway: Gateway, settings: Settings) -> Begin:
    raw = img2vid(duration=60, frame_rate=60, delivery=gateway.delivery())
    return lambda: _once(lambda: list(settings.work_dir.glob("attempt-*/output-video.mp4")), raw, settings)


def _once(reached: Callable[[], object], raw: dict[str, Any], settings: Settings) -> Attempt:
    """Start the attempt; return it once it has reached its stage."""
    attempt = Attempt(raw, settings).start()
    eventually(reached)
    return attempt


@pytest.fixture(params=["connecting", "encoding", "uploading", "retrying"])
def stage(request: pytest.FixtureRequest) -> Begin:
    """Starts an attempt that is in the middle of a stage, and would stay there for a minute."""
    begin: Begin = request.getfixturevalue(request.param)
    return begin


@pytest.mark.parametrize("by", ["409", "signal"])
def test_every_stage_stops(stage: Begin, gateway: Gateway, settings: Settings, by: str) -> None:
    _stops(stage(), gateway, settings, by)


@pytest.mark.parametrize("by", ["409", "signal"])
def test_a_fetch_stops(fetching: Begin, gateway: Gateway, settings: Settings, by: str) -> None:
    _stops(fetching(), gateway, settings, by)


def _stops(attempt: Attempt, gateway: Gateway, settings: Settings, by: str) -> None:
    pids = ffmpegs()
    if by == "409":
        gateway.on_event = lambda event: Reply(409)
    else:
        attempt.stop.set(Cancelled())
        attempt.stop.set(WorkerLost())  # only the first reason counts
    attempt.join(STOP_S)
    assert not any(alive(pid) for pid in pids), "FFmpeg is dead before the attempt ends"
    assert attempt.error is not None
    assert attempt.error.code == ("superseded" if by == "409" else "cancelled")
    assert gateway.milestones == ["started"]
    assert list(settings.work_dir.glob("attempt-*")) == []
    assert not settings.output_dir.exists()


def test_a_stop_takes_two_seconds_in_production_at_most() -> None:
    assert sum(IN_PRODUCTION) <= 2


def test_a_409_to_the_upload_means_superseded(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_put = lambda request: Reply(409)
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    attempt.join()
    assert attempt.error is not None
    assert attempt.error.code == "superseded"
    assert len(gateway.puts) == 1
    assert gateway.of_type("failed") == []


def test_a_stop_before_the_start_does_nothing(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    attempt = Attempt(caption(delivery=gateway.delivery()), settings)
    attempt.stop.set(Cancelled())
    attempt.start().join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "cancelled"
    assert gateway.puts == []
    assert ffmpegs() == []


def test_a_worker_that_shuts_down_reports_it(encoding: Begin, gateway: Gateway) -> None:
    attempt = encoding()
    attempt.stop.set(WorkerLost())
    attempt.join(STOP_S)
    assert gateway.events[-1]["error"] == WorkerLost().to_wire()

"""A stopped attempt ends within seconds in every stage, where it would otherwise take a minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from handler import attempt as job
from handler import events
from tests.conftest import ROOT
from tests.handler.conftest import LONG
from tests.handler.support import FOREVER_S, Attempt, Gateway, Job, alive, deaf_server, decoders, ffmpegs
from tests.servers import STOP_S, FileServer, Reply, eventually
from wire.errors import Cancelled, WorkerLost

Begin = Callable[[], Attempt]

IN_PRODUCTION = (job.STOP_GRACE_S, events.PERIOD_S)


@pytest.fixture
def connecting(img2vid: Job) -> Iterator[Begin]:
    with deaf_server() as origin:
        img2vid.settings = replace(img2vid.settings, fetch_allow_origins=(origin,))
        found = partial(img2vid.settings.work_dir.glob, "attempt-*/asset-1")
        yield lambda: _once(lambda: list(found()), img2vid, url_image=f"{origin}/x")


@pytest.fixture(params=["headers", "trickle", "stall"])
def fetching(request: pytest.FixtureRequest, img2vid: Job, files: FileServer) -> Begin:
    files.routes["/endless"] = {
        "headers": Reply(pause_s=FOREVER_S),
        "trickle": Reply(body=b"x" * 10_000, trickle_s=0.1),
        "stall": Reply(body=b"xx", trickle_s=FOREVER_S),
    }[request.param]
    return lambda: _once(lambda: files.requests, img2vid, url_image=files.url("/endless"))


@pytest.fixture(params=["retrying", "uploading"])
def storing(request: pytest.FixtureRequest, img2vid: Job, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """An upload that pauses before its next try, or does not end."""
    monkeypatch.setattr("handler.upload.PAUSES_S", (FOREVER_S,))
    gateway.on_put = lambda put: Reply(503) if request.param == "retrying" else Reply(pause_s=FOREVER_S)
    return lambda: _once(lambda: gateway.puts, img2vid)


@pytest.fixture
def decoding(img2vid: Job, gateway: Gateway, files: FileServer) -> Begin:
    """A JPEG of millions of empty comments, each of which Pillow keeps."""
    content = (ROOT / "samples" / "photo.jpg").read_bytes()
    files.routes["/comments"] = Reply(body=content[:2] + b"\xff\xfe\0\2" * 10_000_000 + content[2:])
    limits = {"max_asset_bytes": 50_000_000, "max_output_bytes": 50_000_000, "timeout_s": 60}
    more = {"url_image": files.url("/comments"), "delivery": gateway.delivery(limits=limits)}
    return lambda: _once(decoders, img2vid, **more)


@pytest.fixture
def encoding(img2vid: Job) -> Begin:
    found = partial(img2vid.settings.work_dir.glob, "attempt-*/output-video.mp4")
    return lambda: _once(lambda: list(found()), img2vid, **LONG)


def _once(reached: Callable[[], object], job: Job, **params: Any) -> Attempt:
    """Start an attempt that would take a minute; return it once it has reached its stage."""
    attempt = job.start(**params)
    eventually(reached)
    return attempt


@pytest.mark.parametrize("by", ["409", "signal"])
class TestEveryStageStops:
    def test_connecting(self, connecting: Begin, gateway: Gateway, by: str) -> None:
        _stops(connecting(), gateway, by)

    def test_fetching(self, fetching: Begin, gateway: Gateway, by: str) -> None:
        _stops(fetching(), gateway, by)

    def test_decoding(self, decoding: Begin, gateway: Gateway, by: str) -> None:
        _stops(decoding(), gateway, by)

    def test_encoding(self, encoding: Begin, gateway: Gateway, by: str) -> None:
        _stops(encoding(), gateway, by)

    def test_storing(self, storing: Begin, gateway: Gateway, by: str) -> None:
        _stops(storing(), gateway, by)


def _stops(attempt: Attempt, gateway: Gateway, by: str) -> None:
    pids, settings = [*ffmpegs(), *decoders()], attempt.settings
    if by == "409":
        gateway.on_event = lambda event: Reply(409)
    else:
        attempt.stop.set(Cancelled())
        attempt.stop.set(WorkerLost())  # only the first reason counts
    attempt.join(STOP_S)
    assert not any(alive(pid) for pid in pids), "they are dead before the attempt ends"
    assert attempt.failure.code == ("superseded" if by == "409" else "cancelled")
    assert gateway.milestones == ["started"]
    assert list(settings.work_dir.glob("attempt-*")) == []
    assert not settings.output_dir.exists()


def test_a_stop_takes_two_seconds_in_production_at_most() -> None:
    assert sum(IN_PRODUCTION) <= 2


def test_a_409_to_the_upload_means_superseded(img2vid: Job, gateway: Gateway) -> None:
    gateway.on_put = lambda request: Reply(409)
    assert img2vid.error().code == "superseded"
    assert (len(gateway.puts), gateway.milestones) == (1, ["started"])


def test_a_stop_before_the_start_does_nothing(img2vid: Job, gateway: Gateway) -> None:
    attempt = Attempt(img2vid(delivery=gateway.delivery()), img2vid.settings)
    attempt.stop.set(Cancelled())
    attempt.start().join(STOP_S)
    assert attempt.failure.code == "cancelled"
    assert (gateway.puts, ffmpegs()) == ([], [])


def test_a_worker_that_shuts_down_reports_it(encoding: Begin, gateway: Gateway) -> None:
    attempt = encoding()
    attempt.stop.set(WorkerLost())
    attempt.join(STOP_S)
    assert gateway.events[-1]["error"] == WorkerLost().to_wire()

"""An attempt that nobody wants any more stops at once, whatever it is doing: far sooner than it would end by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from handler import attempt as job
from handler import events
from handler.settings import Settings
from tests.handler.conftest import Job
from tests.handler.support import FOREVER_S, Attempt, Gateway, alive, deaf_server, ffmpegs
from tests.servers import STOP_S, FileServer, Reply, eventually
from wire.errors import Cancelled, WorkerLost

Begin = Callable[[], Attempt]

PACE_OF_LIFE = (job.STOP_GRACE_S, events.PERIOD_S)


@pytest.fixture
def connecting(caption: Job, gateway: Gateway, settings: Settings) -> Iterator[Begin]:
    with deaf_server() as origin:
        allowing = Settings(**{**vars(settings), "fetch_allow_origins": (origin,)})

        def begin() -> Attempt:
            attempt = Attempt(caption(url_video=f"{origin}/x", delivery=gateway.delivery()), allowing).start()
            eventually(lambda: list(settings.work_dir.glob("attempt-*/asset-1")))
            return attempt

        yield begin


@pytest.fixture
def waiting_for_headers(caption: Job, gateway: Gateway, settings: Settings, files: FileServer) -> Begin:
    return _fetching(caption, gateway, settings, files, Reply(pause_s=FOREVER_S))


@pytest.fixture
def fetching(caption: Job, gateway: Gateway, settings: Settings, files: FileServer) -> Begin:
    return _fetching(caption, gateway, settings, files, Reply(body=b"x" * 10_000, trickle_s=0.1))


@pytest.fixture
def stalled(caption: Job, gateway: Gateway, settings: Settings, files: FileServer) -> Begin:
    """Some bytes, then none."""
    return _fetching(caption, gateway, settings, files, Reply(body=b"xx", trickle_s=FOREVER_S))


def _fetching(caption: Job, gateway: Gateway, settings: Settings, files: FileServer, reply: Reply) -> Begin:
    files.routes["/endless"] = reply

    def begin() -> Attempt:
        raw = caption(url_video=files.url("/endless"), delivery=gateway.delivery())
        attempt = Attempt(raw, settings).start()
        eventually(lambda: files.requests)
        return attempt

    return begin


@pytest.fixture
def retrying(caption: Job, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Pausing before the next try of an upload."""
    monkeypatch.setattr("handler.upload.PAUSES_S", (FOREVER_S,))
    gateway.on_put = lambda request: Reply(503)
    return _uploading(caption, gateway, settings)


@pytest.fixture
def uploading(caption: Job, gateway: Gateway, settings: Settings) -> Begin:
    gateway.on_put = lambda request: Reply(pause_s=FOREVER_S)
    return _uploading(caption, gateway, settings)


def _uploading(caption: Job, gateway: Gateway, settings: Settings) -> Begin:
    def begin() -> Attempt:
        attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
        eventually(lambda: gateway.puts)
        return attempt

    return begin


@pytest.fixture
def encoding(img2vid: Job, gateway: Gateway, settings: Settings) -> Begin:
    def begin() -> Attempt:
        attempt = Attempt(img2vid(duration=60, frame_rate=60, delivery=gateway.delivery()), settings).start()
        eventually(lambda: list(settings.work_dir.glob("attempt-*/output-video.mp4")))
        return attempt

    return begin


@pytest.fixture(
    params=["connecting", "waiting_for_headers", "fetching", "stalled", "encoding", "uploading", "retrying"]
)
def stage(request: pytest.FixtureRequest) -> Begin:
    """Starts an attempt that is in the middle of each stage, and would stay there for a minute."""
    begin: Begin = request.getfixturevalue(request.param)
    return begin


def test_a_409_stops_every_stage(stage: Begin, gateway: Gateway, settings: Settings) -> None:
    attempt = stage()
    gateway.on_event = lambda event: Reply(409)
    _stops(attempt, "superseded", settings)
    assert gateway.of_type("failed") == gateway.of_type("completed") == []


def test_a_stop_signal_stops_every_stage(stage: Begin, gateway: Gateway, settings: Settings) -> None:
    attempt = stage()
    attempt.stop.set(Cancelled())
    _stops(attempt, "cancelled", settings)
    assert gateway.of_type("failed") == gateway.of_type("completed") == []


def _stops(attempt: Attempt, code: str, settings: Settings) -> None:
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == code
    assert ffmpegs() == []
    assert list(settings.work_dir.glob("attempt-*")) == []


def test_a_409_stops_at_the_pace_of_life(
    uploading: Begin, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "STOP_GRACE_S", PACE_OF_LIFE[0])
    monkeypatch.setattr(events, "PERIOD_S", PACE_OF_LIFE[1])
    attempt = uploading()
    gateway.on_event = lambda event: Reply(409)
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "superseded"


def test_a_stop_takes_two_seconds_in_production_at_most() -> None:
    assert sum(PACE_OF_LIFE) <= 2


def test_a_409_to_the_upload_means_superseded(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_put = lambda request: Reply(409)
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    attempt.join()
    assert attempt.error is not None
    assert attempt.error.code == "superseded"
    assert len(gateway.puts) == 1
    assert gateway.of_type("failed") == []


def test_ffmpeg_is_dead_before_the_attempt_ends(encoding: Begin) -> None:
    attempt = encoding()
    [pid] = ffmpegs()
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert not alive(pid)


def test_a_stop_in_time_fetches_no_second_asset(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    files.routes["/slow"] = Reply(body=b"x" * 20, trickle_s=0.05)
    attempt = Attempt(caption(url_video=files.url("/slow"), delivery=gateway.delivery()), settings).start()
    eventually(lambda: files.requests)
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert [request.path for request in files.requests] == ["/slow"]


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


def test_a_worker_that_shuts_down_tells_the_gateway(encoding: Begin, gateway: Gateway) -> None:
    attempt = encoding()
    attempt.stop.set(WorkerLost())
    attempt.join(STOP_S)
    assert gateway.events[-1]["error"] == WorkerLost().to_wire()


def test_the_first_reason_stays(encoding: Begin) -> None:
    attempt = encoding()
    attempt.stop.set(Cancelled())
    attempt.stop.set(WorkerLost())
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "cancelled"


def test_the_outputs_of_a_stopped_attempt_are_not_kept(img2vid: Job, settings: Settings) -> None:
    attempt = Attempt(img2vid(duration=60, frame_rate=60), settings).start()
    eventually(lambda: list(settings.work_dir.glob("attempt-*/output-video.mp4")))
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert not settings.output_dir.exists()

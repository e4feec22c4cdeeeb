"""What the gateway hears, and what an attempt does when the gateway does not answer."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from handler import attempt as job
from handler import events
from handler.attempt import run_attempt
from handler.events import Events
from handler.settings import Settings
from tests.handler.conftest import Job
from tests.handler.support import FOREVER_S, OK, Attempt, Gateway, failure, ffmpegs
from tests.servers import STOP_S, FileServer, Reply, Request, eventually
from wire.envelope import DeliverySchema, EventSchema
from wire.errors import Cancelled

DOWN = Reply(503, b"down")
HANGS = Reply(pause_s=60)


class Outage:
    """Answers `reply` to the first `times` events of a type, then 200."""

    def __init__(self, type_: str, times: int, reply: Reply = DOWN) -> None:
        self._type, self._left, self._reply = type_, times, reply

    def __call__(self, event: dict[str, Any]) -> Reply:
        if event["type"] != self._type or self._left == 0:
            return OK
        self._left -= 1
        return self._reply


def test_a_refused_claim_ends_before_anything_is_fetched(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    gateway.on_event = lambda event: Reply(409)
    error = failure(caption(delivery=gateway.delivery()), settings)
    assert error.code == "superseded"
    assert files.requests == []
    assert gateway.types == ["started"]
    assert not settings.work_dir.exists()


@pytest.mark.parametrize("reply", [DOWN, Reply(500), Reply(401), Reply(drop=True), HANGS], ids=lambda r: str(r.status))
def test_a_gateway_that_does_not_take_the_claim_ends_the_attempt(
    caption: Job,
    gateway: Gateway,
    settings: Settings,
    files: FileServer,
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
) -> None:
    monkeypatch.setattr(events, "TIMEOUT_S", (0.2, 0.2))
    monkeypatch.setattr(events, "SILENCE_S", 0.5)
    gateway.on_event = lambda event: reply
    started = time.monotonic()
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    attempt.join()
    assert time.monotonic() - started >= 0.5
    assert attempt.error is not None
    assert (attempt.error.code, attempt.error.retryable) == ("gateway_unreachable", True)
    assert files.requests == []


def test_a_claim_that_is_answered_late_is_repeated_with_the_same_id(
    caption: Job, gateway: Gateway, settings: Settings
) -> None:
    gateway.on_event = Outage("started", 3)
    run_attempt(caption(delivery=gateway.delivery()), settings)
    claims = gateway.of_type("started")
    assert len(claims) == 4
    assert len({claim["claim_id"] for claim in claims}) == 1


def test_two_attempts_never_share_a_claim(caption: Job, gateway: Gateway, settings: Settings) -> None:
    for _ in range(2):
        run_attempt(caption(delivery=gateway.delivery()), settings)
    assert len({claim["claim_id"] for claim in gateway.of_type("started")}) == 2


def test_silence_while_fetching_ends_the_attempt_before_ffmpeg_starts(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_S", 0.5)
    files.routes["/slow"] = HANGS
    gateway.on_event = Outage("progress", 10**6)
    attempt = Attempt(caption(url_video=files.url("/slow"), delivery=gateway.delivery()), settings).start()
    attempt.join(FOREVER_S / 2)
    assert attempt.error is not None
    assert (attempt.error.code, attempt.error.retryable) == ("gateway_unreachable", True)
    assert ffmpegs() == []


def test_a_short_silence_while_fetching_is_forgiven(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    video = files.routes["/video.mp4"]
    gateway.on_event = Outage("progress", 5)

    def after_the_silence(request: Request) -> Reply:
        eventually(lambda: len(gateway.of_type("progress")) > 5)
        return video  # type: ignore[return-value]

    files.routes["/slow"] = after_the_silence
    assert "stats" in run_attempt(caption(url_video=files.url("/slow"), delivery=gateway.delivery()), settings)


def test_an_outage_while_encoding_does_not_end_the_work(
    img2vid: Job, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_S", 0.0)  # any silence is too long, were it heeded
    refused: list[float] = []

    def down_while_encoding(event: dict[str, Any]) -> Reply:
        if event["type"] != "progress" or event["progress"] <= job.FETCHED:
            return OK
        refused.append(event["progress"])
        return DOWN

    gateway.on_event = down_while_encoding
    run_attempt(img2vid(duration=1, delivery=gateway.delivery()), settings)
    assert refused
    assert gateway.types[-1] == "completed"
    assert len(gateway.puts) == 1


def test_completed_is_told_until_it_is_heard(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = Outage("completed", 5)
    run_attempt(caption(delivery=gateway.delivery()), settings)
    assert gateway.types[-6:] == ["completed"] * 6
    assert len(gateway.puts) == 1


def test_failed_is_told_until_it_is_heard(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    gateway.on_event = Outage("failed", 5)
    failure(caption(url_video=files.url("/none"), delivery=gateway.delivery()), settings)
    assert gateway.types[-6:] == ["failed"] * 6


def test_a_timeout_is_told_until_it_is_heard(img2vid: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = Outage("failed", 3)
    raw = img2vid(duration=60, frame_rate=60, delivery=gateway.delivery(limits={"timeout_s": 1}))
    assert failure(raw, settings).code == "job_timeout"
    assert gateway.types[-4:] == ["failed"] * 4


def test_failed_is_told_once_with_code_message_and_class(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    error = failure(caption(url_video=files.url("/none"), delivery=gateway.delivery()), settings)
    [event] = gateway.of_type("failed")
    assert event["error"] == {"code": "asset_not_found", "message": error.message, "retryable": False}
    assert EventSchema().load(event).error is not None


def test_failed_keeps_its_reason_when_the_gateway_does_not_want_it(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    gateway.on_event = lambda event: Reply(409) if event["type"] == "failed" else OK
    error = failure(caption(url_video=files.url("/none"), delivery=gateway.delivery()), settings)
    assert error.code == "asset_not_found"
    assert len(gateway.of_type("failed")) == 1


def test_completed_that_is_refused_means_superseded(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = lambda event: Reply(409) if event["type"] == "completed" else OK
    assert failure(caption(delivery=gateway.delivery()), settings).code == "superseded"
    assert gateway.types[-1] == "completed"


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_nothing_is_told_after_the_end(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, end: str
) -> None:
    slow = Reply(200, b"{}", pause_s=0.3)  # so that one is under way when the end comes
    gateway.on_event = lambda event: slow if event["type"] == "progress" else OK
    url = files.url("/captions.srt" if end == "completed" else "/page.html")
    Attempt(caption(url_srt=url, delivery=gateway.delivery()), settings).start().join()
    time.sleep(0.2)  # four periods in which something could still come
    assert gateway.types[-1] == end
    assert gateway.types.count(end) == 1


def test_the_gateway_cannot_send_the_token_elsewhere(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    gateway.on_event = lambda event: Reply(307, headers={"Location": files.url("/thief")})
    assert failure(caption(delivery=gateway.delivery()), settings).code == "gateway_unreachable"
    assert files.requests == []


def test_a_stop_is_heard_while_the_claim_hangs(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = lambda event: HANGS
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    eventually(lambda: gateway.events)
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "cancelled"


def test_a_stop_is_heard_while_progress_hangs(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer
) -> None:
    files.routes["/slow"] = HANGS
    gateway.on_event = lambda event: HANGS if event["type"] == "progress" else OK
    attempt = Attempt(caption(url_video=files.url("/slow"), delivery=gateway.delivery()), settings).start()
    eventually(lambda: gateway.of_type("progress"))
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "cancelled"


def test_a_claim_that_comes_through_after_a_stop_is_not_kept_alive(
    caption: Job, gateway: Gateway, settings: Settings
) -> None:
    stopped = threading.Event()
    gateway.on_event = lambda event: OK if stopped.wait(FOREVER_S) else DOWN
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    eventually(lambda: gateway.events)
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    stopped.set()
    time.sleep(0.3)  # six periods in which it could report
    assert gateway.types == ["started"]


def test_an_end_that_nobody_hears_is_given_up(
    caption: Job, gateway: Gateway, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FINAL_TRIES_S", 0.3)
    gateway.on_event = lambda event: DOWN if event["type"] in {"completed", "failed"} else OK
    attempt = Attempt(caption(delivery=gateway.delivery()), settings).start()
    attempt.join(FOREVER_S)
    assert len(gateway.puts) == 1


def test_every_event_carries_the_bearer_token(gateway: Gateway) -> None:
    seen: list[Request] = []
    target = gateway.delivery()
    gateway.server.routes["/events/att_1"] = lambda request: seen.append(request) or OK  # type: ignore[func-returns-value]
    reporter = Events(DeliverySchema().load(target), job.StopSignal())
    reporter.claim()
    eventually(lambda: len(seen) > 2)
    reporter.completed({"outputs": {}, "stats": {}})
    assert {request.headers["Authorization"] for request in seen} == {f"Bearer {target['events']['token']}"}
    assert {request.headers["Content-Type"] for request in seen} == {"application/json"}

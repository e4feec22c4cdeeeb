"""Events of an attempt, and what it does when the gateway does not respond."""

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
    """Replies with `reply` to the first `times` events of a type, then with 200."""

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
def test_a_gateway_that_does_not_accept_the_claim_ends_the_attempt(
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


def test_a_claim_is_repeated_with_the_same_id(caption: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = Outage("started", 3)
    run_attempt(caption(delivery=gateway.delivery()), settings)
    claims = gateway.of_type("started")
    assert len(claims) == 4
    assert len({claim["claim_id"] for claim in claims}) == 1


def test_every_attempt_has_a_claim_of_its_own(caption: Job, gateway: Gateway, settings: Settings) -> None:
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


def test_a_short_silence_while_fetching_ends_nothing(
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
    monkeypatch.setattr(events, "SILENCE_S", 0.0)  # shorter than any silence
    refused: list[float] = []

    def down_while_encoding(event: dict[str, Any]) -> Reply:
        if event["type"] != "progress" or event["progress"] <= job.FETCHED:
            return OK
        refused.append(event["progress"])
        return DOWN

    gateway.on_event = down_while_encoding

    def put_after_a_refusal(request: Request) -> Reply:
        eventually(lambda: refused)
        return OK

    gateway.on_put = put_after_a_refusal
    run_attempt(img2vid(duration=1, delivery=gateway.delivery()), settings)
    assert refused
    assert gateway.types[-1] == "completed"
    assert len(gateway.puts) == 1


@pytest.mark.parametrize("type_", ["completed", "failed"])
def test_an_end_is_repeated_until_it_is_accepted(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, type_: str
) -> None:
    gateway.on_event = Outage(type_, 5)
    raw = caption(url_srt=files.url("/captions.srt" if type_ == "completed" else "/none"), delivery=gateway.delivery())
    Attempt(raw, settings).start().join()
    assert gateway.types[-6:] == [type_] * 6
    if type_ == "failed":
        error = EventSchema().load(gateway.events[-1]).error
        assert (error.code, error.retryable) == ("asset_not_found", False)


def test_a_timeout_is_repeated_until_it_is_accepted(img2vid: Job, gateway: Gateway, settings: Settings) -> None:
    gateway.on_event = Outage("failed", 3)
    raw = img2vid(duration=60, frame_rate=60, delivery=gateway.delivery(limits={"timeout_s": 1}))
    assert failure(raw, settings).code == "job_timeout"
    assert gateway.types[-4:] == ["failed"] * 4


@pytest.mark.parametrize(
    ("refused", "file", "code"), [("failed", "none", "asset_not_found"), ("completed", "captions.srt", "superseded")]
)
def test_an_end_that_the_gateway_refuses_is_not_repeated(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, refused: str, file: str, code: str
) -> None:
    gateway.on_event = lambda event: Reply(409) if event["type"] == refused else OK
    assert failure(caption(url_srt=files.url(f"/{file}"), delivery=gateway.delivery()), settings).code == code
    assert gateway.milestones == ["started", refused]


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_nothing_is_reported_after_the_end(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, end: str
) -> None:
    slow = Reply(200, b"{}", pause_s=0.3)  # so that one is pending at the end
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


@pytest.mark.parametrize("hanging", ["started", "progress"])
def test_a_stop_takes_effect_while_a_report_hangs(
    caption: Job, gateway: Gateway, settings: Settings, files: FileServer, hanging: str
) -> None:
    files.routes["/slow"] = HANGS
    gateway.on_event = lambda event: HANGS if event["type"] == hanging else OK
    attempt = Attempt(caption(url_video=files.url("/slow"), delivery=gateway.delivery()), settings).start()
    eventually(lambda: gateway.of_type(hanging))
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert attempt.error is not None
    assert attempt.error.code == "cancelled"


def test_a_claim_that_is_accepted_after_a_stop_is_not_kept_alive(
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


def test_an_end_that_is_never_accepted_is_given_up(
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

"""`handler.events`: the events of an attempt, and what it does when the gateway does not respond."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from handler import attempt as job
from handler import events
from handler.events import Events
from tests.handler.conftest import LONG
from tests.handler.support import FOREVER_S, OK, Gateway, Job, ffmpegs
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


def test_a_refused_claim_ends_before_anything_is_fetched(img2vid: Job, gateway: Gateway, files: FileServer) -> None:
    gateway.on_event = lambda event: Reply(409)
    assert img2vid.error().code == "superseded"
    assert files.requests == []
    assert gateway.types == ["started"]
    assert not img2vid.settings.work_dir.exists()


@pytest.mark.parametrize("reply", [DOWN, Reply(500), Reply(401), Reply(drop=True), HANGS], ids=lambda r: str(r.status))
def test_a_gateway_that_does_not_accept_the_claim_ends_the_attempt(
    img2vid: Job, gateway: Gateway, files: FileServer, monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    monkeypatch.setattr(events, "TIMEOUT_S", (0.2, 0.2))
    monkeypatch.setattr(events, "SILENCE_S", 0.5)
    gateway.on_event = lambda event: reply
    error = img2vid.error()
    assert (error.code, error.retryable) == ("gateway_unreachable", True)
    assert len(gateway.events) > 1 and files.requests == []


def test_a_claim_is_repeated_with_the_same_id_and_every_attempt_has_its_own(img2vid: Job, gateway: Gateway) -> None:
    for times in (3, 0):
        gateway.on_event = Outage("started", times)
        img2vid.result()
    claims = [claim["claim_id"] for claim in gateway.of_type("started")]
    assert len(claims) == 5 and len(set(claims[:4])) == 1 and claims[4] != claims[0]


def test_silence_while_fetching_ends_the_attempt_before_ffmpeg_starts(
    img2vid: Job, gateway: Gateway, files: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_S", 0.5)
    files.routes["/slow"] = HANGS
    gateway.on_event = Outage("progress", 10**6)
    attempt = img2vid.start(url_image=files.url("/slow"))
    attempt.join(FOREVER_S / 2)
    assert (attempt.failure.code, attempt.failure.retryable) == ("gateway_unreachable", True)
    assert ffmpegs() == []


def test_a_short_silence_while_fetching_ends_nothing(img2vid: Job, gateway: Gateway, files: FileServer) -> None:
    image = files.routes["/image.png"]
    gateway.on_event = Outage("progress", 5)

    def after_the_silence(request: Request) -> Reply:
        eventually(lambda: len(gateway.of_type("progress")) > 5)
        return image  # type: ignore[return-value]

    files.routes["/slow"] = after_the_silence
    img2vid.result(url_image=files.url("/slow"))


def test_an_outage_while_encoding_does_not_end_the_work(
    img2vid: Job, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SILENCE_S", 0.0)  # shorter than any silence
    refused: list[float] = []

    def down_while_encoding(event: dict[str, Any]) -> Reply:
        if event["type"] != "progress" or event["progress"] <= job.FETCHED:
            return OK
        refused.append(event["progress"])
        return DOWN

    def put_after_a_refusal(request: Request) -> Reply:
        eventually(lambda: refused)
        return OK

    gateway.on_event, gateway.on_put = down_while_encoding, put_after_a_refusal
    img2vid.result(duration=1)
    assert (gateway.types[-1], len(gateway.puts)) == ("completed", 1)


def end_of(caption: Job, files: FileServer, end: str) -> str | None:
    """Run an attempt that ends as `end`, where the gateway accepts it; return the code of its error."""
    urls = {} if end == "completed" else {"url_srt": files.url("/none")}
    error = caption.ended(**urls).error
    return error and error.code


@pytest.mark.parametrize(("end", "code"), [("completed", None), ("failed", "asset_not_found")])
def test_an_end_is_repeated_until_it_is_accepted(
    caption: Job, gateway: Gateway, files: FileServer, end: str, code: str | None
) -> None:
    gateway.on_event = Outage(end, 5)
    assert end_of(caption, files, end) == code
    assert gateway.types[-6:] == [end] * 6
    if end == "failed":
        error = EventSchema().load(gateway.events[-1]).error
        assert (error.code, error.retryable) == (code, False)


def test_a_timeout_is_repeated_until_it_is_accepted(img2vid: Job, gateway: Gateway) -> None:
    gateway.on_event = Outage("failed", 3)
    assert img2vid.error(**LONG, delivery=gateway.delivery(limits={"timeout_s": 1})).code == "job_timeout"
    assert gateway.types[-4:] == ["failed"] * 4


@pytest.mark.parametrize(("end", "code"), [("completed", "superseded"), ("failed", "asset_not_found")])
def test_an_end_that_the_gateway_refuses_is_not_repeated(
    caption: Job, gateway: Gateway, files: FileServer, end: str, code: str
) -> None:
    gateway.on_event = lambda event: Reply(409) if event["type"] == end else OK
    assert end_of(caption, files, end) == code
    assert gateway.milestones == ["started", end]


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_nothing_is_reported_after_the_end(caption: Job, gateway: Gateway, files: FileServer, end: str) -> None:
    slow = Reply(200, b"{}", pause_s=0.3)  # so that one is pending at the end
    gateway.on_event = lambda event: slow if event["type"] == "progress" else OK
    end_of(caption, files, end)
    time.sleep(0.2)  # four periods in which something could still come
    assert gateway.types[-1] == end
    assert gateway.types.count(end) == 1


@pytest.mark.slow
def test_the_token_does_not_follow_a_redirect(img2vid: Job, gateway: Gateway, files: FileServer) -> None:
    gateway.on_event = lambda event: Reply(307, headers={"Location": files.url("/thief")})
    assert img2vid.error().code == "gateway_unreachable"
    assert files.requests == []


@pytest.mark.parametrize("hanging", ["started", "progress"])
def test_a_stop_takes_effect_while_a_report_hangs(
    img2vid: Job, gateway: Gateway, files: FileServer, hanging: str
) -> None:
    files.routes["/slow"] = HANGS
    gateway.on_event = lambda event: HANGS if event["type"] == hanging else OK
    attempt = img2vid.start(url_image=files.url("/slow"))
    eventually(lambda: gateway.of_type(hanging))
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    assert attempt.failure.code == "cancelled"


def test_a_claim_that_is_accepted_after_a_stop_is_not_kept_alive(img2vid: Job, gateway: Gateway) -> None:
    stopped = threading.Event()
    gateway.on_event = lambda event: OK if stopped.wait(FOREVER_S) else DOWN
    attempt = img2vid.start()
    eventually(lambda: gateway.events)
    attempt.stop.set(Cancelled())
    attempt.join(STOP_S)
    stopped.set()
    time.sleep(0.3)  # six periods in which it could report
    assert gateway.types == ["started"]


def test_an_end_that_is_never_accepted_is_given_up(
    img2vid: Job, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FINAL_TRIES_S", 0.3)
    gateway.on_event = lambda event: DOWN if event["type"] in {"completed", "failed"} else OK
    img2vid.ended()
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

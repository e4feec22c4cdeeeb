"""What Vast.ai's answers mean, and how often it is asked."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest

from common.clock import DAY_MS
from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast import client
from gateway.providers.clouds.vast.client import VastCloud
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.cloud import InconclusiveListing, Machine, NotCreated, Offer, Order, Status
from tests.emulators.vast import Config, Emulator, offer
from tests.gateway.conftest import FixedClock
from tests.servers import FileServer, Reply

KEY = "the-key-of-the-account"


OFFER, ORDER = Offer(7, 70, "RTX 4090", 10**8), Order("acme/worker:1", "x", {}, 3334)


def reply(status: int, body: Any) -> Reply:
    return Reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def asked(files: FileServer, path: str, status: int, body: Any) -> VastCloud:
    files.routes[path] = reply(status, body)
    return cloud_of(files)


def cloud_of(files: FileServer) -> VastCloud:
    return VastCloud(VastSettings(api_base=files.origin, api_key=KEY))


@pytest.mark.parametrize(("status", "body", "gone"), [
    (200, {"success": True}, False),
    (404, {"success": False, "error": "no_such_instance"}, True),
    (404, {"success": False, "error": "invalid_args", "msg": "error 404/1: no_such_instance 7"}, True),
    (404, {"success": False, "error": "auth_error", "msg": "Invalid user key"}, None),
    (404, {}, None),
    (401, {"error": "not_found"}, None),
    (200, {"success": False, "error": "not_found"}, None),
    (429, {"detail": "API requests too frequent endpoint threshold=3.0"}, None),
    (500, {"error": "no_such_instance"}, None),
])  # fmt: skip
def test_a_404_is_read_and_not_assumed(files: FileServer, status: int, body: Any, gone: bool | None) -> None:
    here = asked(files, "/api/v0/instances/7/", status, body)
    if gone is None:
        with pytest.raises(Unavailable):
            here.destroy(7)
    else:
        assert here.destroy(7) is gone


@pytest.mark.parametrize(("status", "body"), [
    (200, {}), (200, {"instances": []}), (200, {"instances": {"id": 8}}), (404, {"error": "auth_error"}), (404, {}),
    (500, {"instances": None}), (429, {}),
])  # fmt: skip
def test_only_a_clear_word_shows_that_an_instance_is_gone(files: FileServer, status: int, body: Any) -> None:
    with pytest.raises(InconclusiveListing):
        asked(files, "/api/v0/instances/7/", status, body).get(7)


def test_a_clear_word_is_believed(files: FileServer) -> None:
    assert asked(files, "/api/v0/instances/7/", 200, {"instances": None}).get(7) is None
    assert asked(files, "/api/v0/instances/7/", 200, {"instances": {"id": 7}}).get(7) == Machine(
        7, None, Status.STARTING, "—"
    )


@pytest.mark.parametrize(
    ("status", "body", "code", "certain"),
    [
        (410, {"error": "no_such_ask"}, "offer_gone", True),
        (404, {"error": "invalid_args", "msg": "error 404/3603: no_such_ask by id 7"}, "offer_gone", True),
        (400, {"error": "insufficient_credit"}, "cannot_pay", False),
        (500, {"error": "internal", "new_contract": 9}, "internal", False),
        (200, {"success": False, "new_contract": 9}, "status_200", False),
        (200, {"success": True}, "status_200", False),
        (200, {"success": True, "new_contract": "9"}, "status_200", False),
        (200, [], "status_200", False),
        (429, {}, "status_429", False),
    ],
)
def test_what_is_no_clear_yes_is_no_creation(
    files: FileServer, status: int, body: Any, code: str, certain: bool
) -> None:
    here = asked(files, "/api/v0/asks/7/", status, body)
    with pytest.raises(NotCreated) as reported:
        here.create(OFFER, ORDER)
    assert (reported.value.code, reported.value.certain) == (code, certain)


def test_the_create_call_is_sent_once_even_when_the_answer_is_cut_off(files: FileServer) -> None:
    files.routes["/api/v0/asks/7/"] = Reply(drop=True)
    with pytest.raises(NotCreated):
        cloud_of(files).create(OFFER, ORDER)
    assert [(r.method, r.path) for r in files.requests] == [("PUT", "/api/v0/asks/7/")]
    assert files.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("status", "spacing_s"), [(200, 60.0), (429, 0.0)])
def test_calls_of_a_kind_wait_their_turn_and_pause_after_a_429(
    files: FileServer, monkeypatch: pytest.MonkeyPatch, status: int, spacing_s: float
) -> None:
    monkeypatch.setattr(client, "TURN_S", 0.0)
    monkeypatch.setitem(client.SPACING_S, "destroy", spacing_s)
    here = asked(files, "/api/v0/instances/7/", status, {})
    for _ in range(3):
        with contextlib.suppress(Unavailable):
            here.destroy(7)
    assert len(files.requests) == 1


@pytest.mark.parametrize(("header", "least_s", "most_s"), [
    ("200", 150, 200), (None, 5, 10), ("soon", 5, 10), ("-5", 5, 10), ("9" * 400, 250, 300), ("0", 0, 0),
])  # fmt: skip
def test_a_429_says_when_calls_of_its_kind_may_go_on(
    files: FileServer, monkeypatch: pytest.MonkeyPatch, header: str | None, least_s: float, most_s: float
) -> None:
    monkeypatch.setattr(client, "TURN_S", 0.0)
    monkeypatch.setitem(client.SPACING_S, "destroy", 0.0)
    headers = {} if header is None else {"Retry-After": header}
    files.routes["/api/v0/instances/7/"] = replace(reply(429, {"detail": "too many"}), headers=headers)
    here = cloud_of(files)
    paused = 0.0
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            here.destroy(7)
        paused = refused.value.retry_in_s or 0.0
    assert least_s <= paused <= most_s
    assert len(files.requests) == (2 if header == "0" else 1)


@pytest.mark.parametrize("status", [429, 403])
def test_when_the_days_searches_are_used_up_none_is_made_until_midnight_utc(files: FileServer, status: int) -> None:
    clock = FixedClock()
    clock.advance(DAY_MS - clock.now_ms() % DAY_MS + 1000)  # a second past midnight
    body = {"success": False, "error": "search_quota_exceeded", "msg": "try again tomorrow"}
    files.routes["/api/v0/bundles/"] = reply(status, body)
    here = VastCloud(VastSettings(api_base=files.origin, api_key=KEY), clock)
    for _ in range(3):
        with pytest.raises(Unavailable, match="searches at Vast.ai are used up"):
            here.search()
    clock.advance(DAY_MS - 1001)
    with pytest.raises(Unavailable):
        here.search()
    assert len(files.requests) == 1
    files.routes["/api/v0/bundles/"] = reply(200, {"offers": [offer(7)]})
    clock.advance(1)
    assert [one.id for one in here.search()] == [7]


def test_whole_machines_are_searched_for_when_the_cheapest_are_all_doubtful() -> None:
    slices = [offer(n, dph_total=0.1, gpu_frac=0.25, driver_version="575.57.08") for n in range(1, 101)]
    with Emulator(Config(speed=0), [*slices, offer(200, dph_total=0.5)]) as vast:
        here = VastCloud(VastSettings(api_base=vast.url, api_key=vast.config.api_key))
        assert here.search()[0].id == 200
        assert vast.calls["search"] == 2
        vast.account.offers[60:] = []
        assert here.search()[0].id == 1, "these are all that there are"
        assert vast.calls["search"] == 3


@pytest.mark.parametrize(
    "rows", [None, {}, "many", [None, 7, "x", [], {}], [{"id": 7}], [{"id": [], "machine_id": {}}]]
)
def test_invalid_offers_are_not_rented(files: FileServer, rows: Any) -> None:
    here = asked(files, "/api/v0/bundles/", 200, {"offers": rows})
    if isinstance(rows, list):
        assert here.search() == []
    else:
        with pytest.raises(Unavailable):
            here.search()

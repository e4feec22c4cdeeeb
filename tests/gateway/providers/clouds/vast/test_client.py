"""What Vast.ai's answers mean, and how often it is asked."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast import client
from gateway.providers.clouds.vast.client import VastCloud
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.cloud import InconclusiveListing, Machine, NotCreated, Offer, Order, Status
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
    with pytest.raises(NotCreated) as told:
        here.create(OFFER, ORDER)
    assert (told.value.code, told.value.certain) == (code, certain)


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

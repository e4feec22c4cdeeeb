"""Every lie of the stand-in for Vast.ai is told when it is asked for, as often as asked, and the truth afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.emulators.conftest import WORKER_ENV, Renter
from tests.emulators.vast import Emulator

PLAIN = {**WORKER_ENV, "WORKER_TLS": "false"}


def status_of(renter: Renter, instance: int) -> Any:
    shown = renter.show(instance)
    return shown and shown["actual_status"]


# ---- any call


@pytest.mark.parametrize("kind", ["account", "list"])
def test_any_call_can_fail_before_its_effect(vast: Emulator, renter: Renter, kind: str) -> None:
    path = {"account": "v0/users/current/", "list": "v1/instances/"}[kind]
    vast.inject("status", kind, status=502)
    vast.inject("rate_limited", kind)
    vast.inject("auth_error", kind)
    vast.inject("garbage", kind)

    answers = [renter.ask("GET", path) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [502, 429, 404, 200, 200]
    assert "Retry-After" not in answers[1].headers
    assert answers[2].json()["error"] == "auth_error"
    assert answers[3].text.startswith("<html>")
    assert answers[4].json()


def test_a_call_is_lost_before_or_after_its_effect(vast: Emulator, renter: Renter) -> None:
    vast.inject("lost_request", "create")
    with pytest.raises(requests.ConnectionError):
        renter.create()
    assert vast.alive() == []

    vast.inject("lost_reply", "create")
    with pytest.raises(requests.ConnectionError):
        renter.create()
    assert len(vast.alive()) == 1
    assert [call.status for call in vast.log] == [None, None]


def test_an_answer_can_come_too_late(vast: Emulator, renter: Renter) -> None:
    fault = vast.inject("slow", "destroy", seconds=0.4)
    instance = renter.rented()

    assert renter.destroy(instance).elapsed.total_seconds() >= 0.4
    assert (vast.alive(), fault.hits) == ([], 1)


# ---- searching and renting


def test_filters_are_not_always_applied(vast: Emulator, renter: Renter) -> None:
    query = {"gpu_name": {"in": ["RTX 4090"]}, "reliability2": {"gte": 0.97}, "order": [["dph_total", "asc"]]}
    vast.inject("unfiltered", "search")

    lie, truth = (renter.search(**query).json()["offers"] for _ in range(2))

    assert {"A30", "A100 SXM4", "H100 SXM"} <= {row["gpu_name"] for row in lie}
    assert {"unverified", "deverified"} <= {row["verification"] for row in lie}
    assert any(row["reliability2"] < 0.97 for row in lie) and any(not row["rentable"] for row in lie)
    assert {row["gpu_name"] for row in truth} == {"RTX 4090"}
    vast.configure(ignored_filters=("gpu_name",))
    assert len({row["gpu_name"] for row in renter.search(**query).json()["offers"]}) > 5


def test_a_search_finds_nothing(vast: Emulator, renter: Renter) -> None:
    vast.inject("no_offers", "search")
    assert [len(renter.search().json()["offers"]) for _ in range(2)] == [0, 64]


@pytest.mark.parametrize(("status", "word"), [(410, "no_such_ask"), (404, "invalid_args"), (400, "no_such_ask")])
def test_an_offer_goes_between_search_and_create(vast: Emulator, renter: Renter, status: int, word: str) -> None:
    vast.inject("gone", "create", status=status)
    wanted = renter.offer()

    answer = renter.create(wanted)

    assert (answer.status_code, answer.json()["error"]) == (status, word)
    assert "no_such_ask" in answer.json()["msg"]
    assert renter.create(wanted).status_code == 404
    assert vast.alive() == []


@pytest.mark.parametrize("word", ["insufficient_credit", "spend_rate_limit"])
def test_the_account_may_not_rent(vast: Emulator, renter: Renter, word: str) -> None:
    vast.inject(word, "create")

    answer = renter.create()

    assert (answer.status_code, answer.json()["error"]) == (400, word)
    assert vast.alive() == []
    assert renter.create().status_code == 200


def test_a_refusal_can_look_like_success(vast: Emulator, renter: Renter) -> None:
    vast.inject("refused", "create")

    answer = renter.create()

    assert (answer.status_code, answer.json()["success"]) == (200, False)
    assert vast.alive() == []


def test_an_error_can_come_after_the_effect(vast: Emulator, renter: Renter) -> None:
    vast.inject("error_after", "create", status=500)

    answer = renter.create()

    assert answer.status_code == 500 and "new_contract" not in answer.json()
    assert renter.listed() == [one.id for one in vast.alive()] != []


def test_an_error_can_name_the_instance_that_it_made(vast: Emulator, renter: Renter) -> None:
    vast.inject("contract_in_error", "create", status=400)

    answer = renter.create()

    assert (answer.status_code, answer.json()["success"]) == (400, False)
    assert [one.id for one in vast.alive()] == [answer.json()["new_contract"]]


def test_an_effect_can_come_long_after_the_error(vast: Emulator, renter: Renter) -> None:
    vast.inject("late_effect", "create", seconds=45, status=504)

    assert renter.create().status_code == 504
    vast.advance(44)
    assert renter.listed() == []
    vast.advance(2)

    (late,) = renter.listed()
    assert [(one.id, one.label) for one in vast.alive()] == [(late, "reelay:test:1:1")]


# ---- looking


def test_a_listing_is_some_listings_old(vast: Emulator, renter: Renter) -> None:
    vast.configure(list_behind=2)
    instance = renter.rented()

    assert [renter.listed() for _ in range(4)] == [[], [], [instance], [instance]]
    assert renter.show(instance)
    renter.destroy(instance)
    assert [renter.listed() for _ in range(3)] == [[instance], [instance], []]


def test_a_listing_behind_has_pages_that_belong_together(vast: Emulator, renter: Renter) -> None:
    vast.configure(list_behind=1)
    ids = [renter.rented() for _ in range(7)]
    renter.listed()

    page = renter.list(limit=4).json()
    renter.destroy(ids[6])
    rest = renter.list(limit=4, after_token=page["next_token"]).json()

    assert [row["id"] for row in page["instances"] + rest["instances"]] == ids
    assert rest["total_instances"] == 7


@pytest.mark.parametrize(
    ("lie", "believable"),
    [("truncated", False), ("wrong_count", False), ("no_list", False), ("unsuccessful", False), ("empty", True)],
)
def test_a_listing_can_be_incomplete(vast: Emulator, renter: Renter, lie: str, believable: bool) -> None:
    ids = [renter.rented(), renter.rented()]
    vast.inject(lie, "list")

    answer = renter.list().json()

    whole = answer["success"] and isinstance(rows := answer.get("instances"), list)
    assert believable is bool(whole and len(rows) == answer["total_instances"] and not answer["next_token"])
    assert renter.listed() == ids


def test_a_further_page_can_be_lost(vast: Emulator, renter: Renter) -> None:
    for _ in range(6):
        renter.rented()
    token = renter.list(limit=5).json()["next_token"]
    vast.inject("bad_token", "list")

    lost = renter.list(limit=5, after_token=token)

    assert (lost.status_code, lost.json()["error"]) == (400, "invalid_token")
    assert len(renter.list(limit=5, after_token=token).json()["instances"]) == 1


def test_a_single_look_can_lack_the_ports(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()
    vast.advance(90)
    vast.inject("no_ports", "show")

    shown = renter.show(instance)

    assert shown and "ports" not in shown
    assert renter.list().json()["instances"][0]["ports"]


# ---- destroying


def test_a_destroy_answers_well_and_does_nothing_twice(vast: Emulator, renter: Renter) -> None:
    vast.inject("ignored", "destroy", times=2)
    instance = renter.rented()

    for alive in (1, 1, 0):
        assert renter.destroy(instance).json()["success"] is True
        assert len(vast.alive()) == alive
    assert renter.destroy(instance).status_code == 404


# ---- machines


def test_ports_come_late(vast: Emulator, renter: Renter) -> None:
    vast.inject("ports_late", "boot", seconds=20)
    instance = renter.rented()

    vast.advance(100)
    shown = renter.show(instance)
    assert shown and (shown["actual_status"], shown["ports"]) == ("running", None)
    vast.advance(11)
    assert renter.worker(instance).ok


@pytest.mark.parametrize("word", ["exited", "unknown", "offline"])
def test_an_image_cannot_be_pulled(vast: Emulator, renter: Renter, word: str) -> None:
    vast.inject("pull_fails", "boot", word=word)
    instance = renter.rented()

    vast.advance(5000)

    assert status_of(renter, instance) == word
    assert vast.bill()["alive"] == 1


def test_a_boot_takes_longer_or_for_ever(vast: Emulator, renter: Renter) -> None:
    vast.inject("slow_boot", "boot", seconds=60)
    vast.inject("never_runs", "boot")
    slow, never, usual = (renter.rented() for _ in range(3))

    vast.advance(91)
    assert [status_of(renter, one) for one in (slow, never, usual)] == ["loading", "loading", "running"]
    vast.advance(60)
    assert [status_of(renter, one) for one in (slow, never, usual)] == ["running", "loading", "running"]
    vast.advance(36_000)
    assert status_of(renter, never) == "loading"


def test_a_machine_is_a_black_hole(vast: Emulator, renter: Renter) -> None:
    vast.inject("black_hole", "boot")
    instance = renter.rented()
    vast.advance(91)

    assert status_of(renter, instance) == "running"
    for _ in range(3):
        with pytest.raises(requests.ConnectTimeout):
            renter.worker(instance, patience_s=0.3)


def test_a_machine_turns_into_a_black_hole(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented(env=PLAIN)
    vast.advance(91)
    assert renter.worker(instance).ok

    vast.strike(instance, "black_hole")

    with pytest.raises(requests.ConnectTimeout):
        renter.worker(instance, patience_s=0.3)
    vast.advance(421)  # the worker lives on, and hears from nobody
    assert vast.alive() == []


def test_nobody_listens_behind_the_port(vast: Emulator, renter: Renter) -> None:
    vast.inject("no_worker", "boot")
    instance = renter.rented(env=PLAIN)
    vast.advance(91)

    with pytest.raises(requests.ConnectionError) as caught:
        renter.worker(instance)

    assert not isinstance(caught.value, requests.Timeout)


def test_a_host_stops_an_instance(vast: Emulator, renter: Renter) -> None:
    vast.inject("stopped", "boot", seconds=30)
    instance = renter.rented()

    vast.advance(119)
    assert status_of(renter, instance) == "running"
    vast.advance(2)

    assert status_of(renter, instance) == "stopped"
    vast.advance(7200)  # nothing runs there that could destroy it
    assert vast.bill()["alive"] == 1


def test_an_address_changes(vast: Emulator, renter: Renter) -> None:
    vast.inject("moved", "boot", seconds=30)
    instance = renter.rented(env=PLAIN)
    vast.advance(91)
    before = vast.instances[0].port
    assert before
    old = before.port
    assert renter.worker(instance).ok

    vast.advance(30)

    assert renter.worker(instance).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{old}/health", timeout=2)


def test_a_container_dies_and_a_machine_vanishes(vast: Emulator, renter: Renter) -> None:
    vast.inject("dies", "boot", seconds=10)
    vast.inject("vanishes", "boot", seconds=10)
    dead, gone = renter.rented(), renter.rented()

    vast.advance(101)

    assert status_of(renter, dead) == "exited"
    assert renter.show(gone) is None
    assert [one.ended_by for one in vast.instances] == [None, "host"]


def test_what_cannot_happen_is_said(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()
    with pytest.raises(ValueError, match="moved cannot happen"):
        vast.strike(instance, "moved")
    with pytest.raises(KeyError):
        vast.strike(1, "stopped")


# ---- by hand


def test_everything_can_be_told_over_http(vast: Emulator, renter: Renter) -> None:
    def control(method: str, path: str = "", body: Any = None) -> requests.Response:
        return requests.request(method, f"{vast.url}/_control{path}", json=body, timeout=30)

    assert control("POST", "/faults", {"kind": "ignored", "on": "destroy", "times": 1}).status_code == 201
    instance = renter.rented()
    renter.destroy(instance)
    assert control("POST", "/clock", {"advance": 95}).ok
    assert control("POST", f"/instances/{instance}/stopped").status_code == 204
    assert control("POST", "/strangers", {"label": "somebody's"}).status_code == 201
    assert control("PATCH", "/config", {"list_behind": 1}).status_code == 204

    state = control("GET").json()

    assert state["calls"] == {"create": 1, "destroy": 1}
    assert [(one["kind"], one["hits"]) for one in state["faults"]] == [("ignored", 1)]
    assert [one["status"] for one in state["bill"]["instances"]] == ["stopped", None]
    assert state["bill"]["paid_s"] == pytest.approx(95)
    assert [call["kind"] for call in control("GET", "/calls").json()] == ["create", "destroy"]
    for path, body in (("/faults", {"kind": "x", "on": "list"}), ("/faults", {"no": 1})):
        assert control("POST", path, body).status_code == 400
    assert control("PATCH", "/config", {"command": ["rm"]}).status_code == 400
    assert control("PATCH", "/config", {"nonsense": 1}).status_code == 400
    assert control("DELETE", "/faults").status_code == control("DELETE", "/calls").status_code == 204
    assert control("GET").json()["faults"] == [] and vast.calls == {}

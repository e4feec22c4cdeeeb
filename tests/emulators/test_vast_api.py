"""The stand-in for Vast.ai answers as the platform does: by the published schema, and by what the facts say beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.emulators.conftest import WORKER_ENV, MakeVast, Renter
from tests.emulators.vast import Emulator, offer
from tests.emulators.vast.market import INCONCLUSIVE

FILTERS: dict[str, Any] = {
    "gpu_ram": {"gte": 8000},
    "num_gpus": {"eq": 1},
    "reliability2": {"gte": 0.97},
    "inet_up": {"gte": 200},
    "inet_down": {"gte": 200},
    "direct_port_count": {"gte": 1},
    "driver_version": {"gte": 530_041_003},
    "duration": {"gte": 7200},
    "dph_total": {"lte": 1.0},
    "disk_space": {"gte": 10},
    "cpu_arch": {"eq": "amd64"},
    "gpu_name": {"notin": [name for name, *_ in INCONCLUSIVE]},
}


@pytest.fixture(autouse=True)
def as_published(vast: Emulator) -> Any:
    """No answer of any test here breaks the published schema."""
    yield
    assert vast.unfit == []


def test_filters_are_applied_and_the_order_is_kept(renter: Renter) -> None:
    offers = renter.search(**FILTERS, order=[["dph_total", "asc"]], type="ondemand", allocated_storage=10).json()[
        "offers"
    ]

    assert len(offers) == 64
    assert [row["dph_total"] for row in offers] == sorted(row["dph_total"] for row in offers)
    assert offers[0]["gpu_name"] == "RTX 3060"
    assert not {row["gpu_name"] for row in offers} & {name for name, *_ in INCONCLUSIVE}
    assert all(row["verification"] == "verified" and row["rentable"] and row["num_gpus"] == 1 for row in offers)


def test_only_what_is_verified_and_rentable_is_found_unless_asked_for(renter: Renter) -> None:
    everything = {"verified": {"in": [True, False]}, "rentable": {"in": [True, False]}, "rented": {"in": [True, False]}}
    cheap = {"dph_total": {"lt": 0.06}, "limit": 64}

    usual, all_of_them = (len(renter.search(**cheap, **more).json()["offers"]) for more in ({}, everything))

    assert all_of_them - usual == 4  # two not verified, one not rentable, one rented


def test_no_answer_has_more_than_64_rows(renter: Renter) -> None:
    assert len(renter.search(limit=1000).json()["offers"]) == 64
    assert len(renter.search(limit=3).json()["offers"]) == 3


def test_the_market_has_everything_that_must_not_be_rented_at_the_lowest_price(renter: Renter) -> None:
    offers = renter.search(order=[["dph_total", "asc"]], verified={"in": [True, False]}).json()["offers"]

    cheapest = [row for row in offers if row["dph_total"] < 0.08]
    assert cheapest == offers[: len(cheapest)]
    assert {"A100 SXM4", "H100 SXM", "H200", "GH200 SXM", "B200"} <= {row["gpu_name"] for row in cheapest}
    assert any(row["reliability2"] < 0.97 for row in cheapest)
    assert any(row["verification"] == "unverified" for row in cheapest)


@pytest.mark.parametrize("query", [{"gpu_ram": 8000}, {"gpu_ram": {"above": 1}}, {"type": "spot"}, {"limit": "all"}])
def test_a_query_that_makes_no_sense_is_refused(renter: Renter, query: Any) -> None:
    assert renter.search(**query).status_code == 400


def test_a_search_that_comes_too_often_gets_429_without_retry_after(vast: Emulator, renter: Renter) -> None:
    assert [renter.search().status_code for _ in range(11)] == [200] * 10 + [429]
    assert "Retry-After" not in renter.search().headers
    vast.advance(60)
    assert renter.search().status_code == 200


def test_searches_have_a_quota_a_day(vast: Emulator, renter: Renter) -> None:
    vast.configure(searches_a_minute=100, searches_a_day=3)

    assert [renter.search().status_code for _ in range(4)] == [200, 200, 200, 429]
    vast.clock.move(86_000)
    assert renter.search().status_code == 429
    vast.clock.move(401)
    assert renter.search().status_code == 200


def test_an_instance_is_created_with_what_was_asked(vast: Emulator, renter: Renter) -> None:
    rented = renter.offer()

    answer = renter.create(rented).json()

    assert answer == {
        "success": True,
        "new_contract": answer["new_contract"],
        "instance_api_key": vast.instances[0].key,
    }
    shown = renter.show(answer["new_contract"])
    assert shown and shown["label"] == "reelay:test:1:1"
    assert (shown["actual_status"], shown["image_uuid"]) == (None, "example/worker:1.0")
    assert dict(shown["extra_env"]) == WORKER_ENV
    assert renter.listed() == [answer["new_contract"]]


def test_an_offer_that_is_rented_is_gone_until_its_instance_is(renter: Renter) -> None:
    wanted = renter.offer()
    instance = renter.create(wanted).json()["new_contract"]

    again = renter.create(wanted)

    assert again.status_code == 404
    assert "no_such_ask" in again.json()["msg"]
    assert renter.create(77).status_code == 404
    renter.destroy(instance)
    assert renter.create(wanted).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"env": {**WORKER_ENV, "NAME": "v" * 257}},
        {"env": {**WORKER_ENV, "NAME": 1}},
        {"label": "l" * 257},
        {"disk": 7},
        {"image": 3},
        {"runtype": "anything"},
    ],
)
def test_a_request_that_makes_no_sense_creates_nothing(vast: Emulator, renter: Renter, wrong: dict[str, Any]) -> None:
    answer = renter.create(**wrong)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert vast.alive() == []


def test_an_environment_of_flags_is_dropped_in_silence_or_refused(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented(env="-p 3334:3334 -e WORKER_MODE=http")
    vast.advance(100)

    shown = renter.show(instance)
    assert shown and (shown["actual_status"], shown["ports"], shown["extra_env"]) == ("running", None, [])
    vast.configure(refuse_env_string=True)
    assert renter.create(env="-p 3334:3334").status_code == 400


@pytest.mark.parametrize("change", [{"runtype": "ssh"}, {"env": {}}, {"env": {"-p 3334:3334": "1"}}])
def test_without_entry_point_port_or_mode_no_worker_starts(vast: Emulator, renter: Renter, change: Any) -> None:
    instance = renter.rented(**change)
    vast.advance(100)

    shown = renter.show(instance)
    assert shown and (shown["actual_status"], shown["ports"]) == ("running", None)
    assert vast.instances[0].container is None


def test_listings_come_in_pages_that_belong_together(vast: Emulator, renter: Renter) -> None:
    ids = [renter.rented(label=f"reelay:test:{n}:1") for n in range(27)]

    first = renter.list(limit=1000).json()
    renter.destroy(ids[26])
    second = renter.list(after_token=first["next_token"]).json()

    assert [row["id"] for row in first["instances"]] == ids[:25]
    assert [row["id"] for row in second["instances"]] == ids[25:]
    assert (first["total_instances"], first["instances_found"], second["instances_found"]) == (27, 25, 2)
    assert second["next_token"] is None
    assert len(renter.list(limit=0).json()["instances"]) == 5
    assert renter.listed(limit=10) == ids[:26]
    assert renter.list(after_token="nonsense").status_code == 400


def test_a_listing_is_filtered_by_what_is_stored(vast: Emulator, renter: Renter) -> None:
    mine, _ = renter.rented(), vast.stranger("somebody's")

    assert renter.listed(select_filters=json.dumps({"label": {"eq": "reelay:test:1:1"}})) == [mine]
    assert renter.list(select_filters=json.dumps({"dph_total": {"gt": 0}})).status_code == 400
    assert renter.list(select_filters="nonsense").status_code == 400


def test_the_old_listing_is_retired(renter: Renter) -> None:
    assert renter.ask("GET", "v0/instances/").status_code == 410


@pytest.mark.parametrize("word", ["no_such_instance", "not_found"])
def test_what_was_destroyed_is_gone(vast: Emulator, renter: Renter, word: str) -> None:
    vast.configure(gone_word=word)
    instance = renter.rented()

    assert renter.destroy(instance).json()["success"] is True

    assert renter.show(instance) is None
    assert renter.listed() == []
    again = renter.destroy(instance)
    assert (again.status_code, again.json()["error"]) == (404, word)


@pytest.mark.parametrize("status", [404, 401])
def test_a_wrong_key_gets_auth_error(make_vast: MakeVast, rent: Callable[[Emulator], Renter], status: int) -> None:
    renter = rent(make_vast(auth_status=status))
    instance = renter.rented()

    for method, path in (("GET", "v1/instances/"), ("DELETE", f"v0/instances/{instance}/"), ("POST", "v0/bundles/")):
        answer = renter.ask(method, path, {}, key="wrong")
        assert (answer.status_code, answer.json()["error"]) == (status, "auth_error")
    assert renter.show(instance)


def test_a_container_may_destroy_itself_and_nothing_else(vast: Emulator, renter: Renter) -> None:
    instance, other = renter.rented(), renter.rented()
    key = vast.instances[0].key

    assert renter.destroy(other, key=key).status_code == 403
    assert renter.ask("GET", "v1/instances/", key=key).status_code == 403
    assert renter.create().status_code == 200
    assert renter.destroy(instance, key=key).status_code == 200

    assert [one.id for one in vast.alive()][:1] == [other]
    assert vast.calls["self-destroy"] == 2 and vast.calls["destroy"] == 0


def test_the_account_tells_its_credit(vast: Emulator, renter: Renter) -> None:
    assert renter.account().json()["credit"] == 25.0
    renter.rented()
    vast.advance(360)
    spent = vast.bill()["dollars"]
    assert spent == pytest.approx(vast.instances[0].offer["dph_total"] / 10)
    assert renter.account().json()["credit"] == pytest.approx(25 - spent)


def test_calls_of_a_kind_need_their_spacing(make_vast: MakeVast, rent: Callable[[Emulator], Renter]) -> None:
    vast = make_vast(spacing={"create": 4.5, "show": 2.0, "list": 1.0, "destroy": 3.0})
    renter = rent(vast)
    instance = renter.rented()

    hasty = renter.create()
    assert (hasty.status_code, hasty.json()) == (429, {"detail": "API requests too frequent endpoint threshold=4.5"})
    assert "Retry-After" not in hasty.headers
    vast.advance(4.5)
    assert renter.create().status_code == 200
    assert [renter.list().status_code for _ in range(2)] == [200, 429]
    vast.inject("ignored", "destroy")
    assert renter.destroy(instance).status_code == 200
    limited = renter.destroy(instance)
    assert (limited.status_code, limited.json()["error"]) == (429, "rate_limit_exceeded")
    assert renter.destroy(instance, key=vast.instances[0].key).status_code == 200  # another key, another count
    assert len(vast.alive()) == 1


def test_every_call_is_noted_with_what_was_sent(vast: Emulator, renter: Renter) -> None:
    instance = renter.rented()
    renter.list(limit=7)
    renter.destroy(instance, key="wrong")

    create, listing, destroy = vast.log
    assert (create.kind, create.method, create.status) == ("create", "PUT", 200)
    assert create.body["env"] == WORKER_ENV
    assert (listing.kind, listing.query, listing.key) == ("list", "limit=7", vast.config.api_key)
    assert (destroy.kind, destroy.key, destroy.status) == ("self-destroy", "wrong", 404)
    assert vast.calls == {"create": 1, "list": 1, "self-destroy": 1}


def test_a_market_may_be_given(make_vast: MakeVast, rent: Callable[[Emulator], Renter]) -> None:
    renter = rent(make_vast(offers=[offer(7, gpu_name="L4", dph_total=0.3)]))

    assert [(row["id"], row["gpu_name"]) for row in renter.search().json()["offers"]] == [(7, "L4")]
    assert renter.create(7).status_code == 200
    assert renter.search().json()["offers"] == []


def test_every_lie_is_explained(vast: Emulator) -> None:
    with pytest.raises(ValueError, match="kind"):
        vast.inject("surprise", "list")
    with pytest.raises(ValueError, match="truncated can happen to list"):
        vast.inject("truncated", "create")

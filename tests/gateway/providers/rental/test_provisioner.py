"""What is rented, and every way in which a creation goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.db import rental_store
from gateway.db.rental_store import orphans, spending
from gateway.domain.rentals import Stage
from gateway.providers.base import Accepted, NoCapacity, NotYet, Unavailable
from gateway.providers.rental.fleet import LEASE_MS
from tests.emulators.vast import offer
from tests.gateway.providers.vast_scene import Scene


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "more", "behind"), [
    ("gone", {"status": 410}, 3), ("gone", {"status": 404}, 0), ("gone", {"status": 400}, 0), ("lost_request", {}, 3),
    ("lost_reply", {}, 0), ("lost_reply", {}, 3), ("error_after", {"status": 500}, 3),
    ("contract_in_error", {"status": 500}, 3), ("late_effect", {"status": 500, "seconds": 30}, 3),
    ("late_effect", {"status": 500, "seconds": 400}, 3), ("refused", {}, 0), ("rate_limited", {}, 0),
    ("status", {"status": 503}, 0), ("auth_error", {}, 0), ("garbage", {"body": "<html>"}, 3),
])  # fmt: skip
def test_a_creation_that_goes_wrong(scene: Scene, fault: str, more: dict[str, Any], behind: int) -> None:
    scene.vast.configure(list_behind=behind)
    scene.vast.inject(fault, "create", times=1, **more)
    (attempt,) = scene.wants()
    scene.round()
    scene.go_on(55)
    if fault not in {"gone", "contract_in_error"}:
        assert scene.creates == 1, "there may be a machine"
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert isinstance(scene.submit(attempt), Accepted)
    scene.over(attempt)
    scene.ends_with_nothing()
    assert scene.creates <= 2
    assert sum(i.paid_s for i in scene.vast.instances) < 1500


def test_a_creation_that_takes_effect_late_is_found_though_the_listing_lags(scene: Scene) -> None:
    scene.vast.configure(list_behind=8)  # 40 s here
    scene.vast.inject("late_effect", "create", times=1, status=500, seconds=28)
    scene.wants()
    scene.round()
    scene.go_on(60)
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert scene.creates == 1


def test_as_many_machines_as_jobs_and_no_more_than_allowed(scene: Scene) -> None:
    scene.wants(2)
    scene.go_on(30)
    assert len(scene.vast.alive()) == 2
    scene.wants(20)
    scene.go_on(60)
    assert len(scene.vast.alive()) == scene.own.max_instances == scene.creates


@pytest.mark.slow
def test_an_offer_that_is_gone_makes_room_for_the_next_and_five_are_enough(scene: Scene) -> None:
    scene.vast.inject("gone", "create", times=50, status=410)
    (attempt,) = scene.wants()
    scene.go_on(120)
    assert scene.creates == 5
    assert len({i.offer_id for i in scene.all()}) == 5
    with pytest.raises(NoCapacity, match="did not come up"):
        scene.submit(attempt)
    scene.vast.faults.clear()
    scene.go_on(600, every_s=10)
    assert Stage.IDLE in scene.stages()


@pytest.mark.slow
def test_an_account_that_cannot_pay_is_unavailable(scene: Scene) -> None:
    scene.vast.inject("insufficient_credit", "create", times=1)
    first, second = scene.wants(2)
    scene.go_on(80)
    assert scene.creates == 1
    with pytest.raises(Unavailable, match="cannot pay"):
        scene.submit(second)
    scene.over(first, second)
    scene.ends_with_nothing()


@pytest.mark.parametrize(
    ("changes", "reported", "kind"),
    [
        ({"min_credit": 26.0}, "has 25.00 dollars left", Unavailable),
        ({"max_price": 0.01}, "no machine that fits", NoCapacity),
        ({"min_vram_gb": 90}, "no machine that fits", NoCapacity),
    ],
)
def test_what_is_not_rented_is_reported(
    scene: Scene, changes: dict[str, Any], reported: str, kind: type[Exception]
) -> None:
    scene.change(**changes)
    (attempt,) = scene.wants()
    scene.round()
    with pytest.raises(kind, match=reported):
        scene.submit(attempt)
    scene.over(attempt)
    scene.go_on(70, every_s=10)
    (other,) = scene.wants()
    assert scene.submit(other) == NotYet("a machine will be rented", 2.0), "whoever comes later makes us look again"
    assert scene.creates == 0


def test_a_listing_does_not_clear_what_speaks_against_renting(scene: Scene) -> None:
    scene.change(min_credit=26.0)
    (attempt,) = scene.wants()
    scene.round()
    scene.change(max_instances=0)  # nothing more is asked for or noted
    scene.go_on(5)
    scene.change(max_instances=3)
    with pytest.raises(Unavailable, match="dollars left"):
        scene.submit(attempt)


@pytest.mark.slow
def test_the_days_budget_ends_renting_and_idle_machines(scene: Scene) -> None:
    scene.change(daily_budget=0.01)  # 450 s of the cheapest
    (attempt,) = scene.wants()
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert isinstance(scene.submit(attempt), Accepted)
    scene.go_on(600, every_s=20)
    assert scene.stages() == [Stage.BUSY], "work that has begun is not broken off"
    scene.over(attempt)
    (other,) = scene.wants()
    scene.go_on(20)
    assert [i.code for i in scene.all()] == ["budget"]
    with pytest.raises(NoCapacity, match="budget"):
        scene.submit(other)
    assert scene.creates == 1


def test_traffic_counts_against_the_days_budget(scene: Scene) -> None:
    scene.vast.account.offers[:] = [offer(n, inet_down_cost=0.02) for n in range(1, 4)]
    scene.change(image_gb=0.5, daily_budget=0.015)  # 0.01 for the pull, 90 s of the machine
    (attempt,) = scene.wants()
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert not scene.rows.over_budget(scene.own.daily_budget, scene.clock.now_ms())
    (rental,) = scene.rows.living()
    with scene.store.transaction() as tx:
        rental_store.add_traffic(tx, rental.id, 4_000_000, scene.clock.now_ms())
    with pytest.raises(NoCapacity, match="budget"):
        scene.submit(attempt)
    scene.go_on(20)
    assert [i.code for i in scene.all()] == ["budget"]


def test_a_pull_that_never_took_place_is_not_counted(scene: Scene) -> None:
    scene.vast.account.offers[:] = [offer(1, inet_down_cost=0.02)]
    scene.vast.inject("gone", "create", times=1, status=410)
    scene.wants()
    scene.go_on(20)
    assert [i.stage for i in scene.all()] == [Stage.NO_MACHINE]
    assert spending(scene.store, scene.clock.now_ms()).today_nano == 0


@pytest.mark.slow
def test_the_days_budget_ends_a_machine_with_steady_work(scene: Scene) -> None:
    scene.change(daily_budget=0.01)
    attempt = scene.busy()
    for _ in range(20):
        scene.go_on(30, every_s=15)
        (following,) = scene.wants()
        scene.over(attempt)
        try:
            assert isinstance(scene.submit(following), Accepted)
        except NoCapacity as error:
            assert "budget" in str(error)
            break
        attempt = following
    assert 0.01 <= scene.vast.bill()["dollars"] < 0.012
    scene.go_on(20)
    assert [i.code for i in scene.all()] == ["budget"]
    assert scene.vast.alive() == []


def test_an_intent_that_was_never_sent_is_no_machine(scene: Scene) -> None:
    scene.wants()
    scene.provider._cloud.await_create = lambda: (_ for _ in ()).throw(Unavailable("not now"))  # type: ignore[method-assign]
    scene.round()
    assert scene.stages() == [Stage.INTENT]
    scene.round(scene.another())
    first, second = scene.all()
    assert (first.stage, second.stage) == (Stage.NO_MACHINE, Stage.BOOTING)
    assert first.offer_id == second.offer_id, "it was never asked for"


@pytest.mark.parametrize("effect", [True, False])
def test_a_gateway_that_died_in_the_creation_leaves_no_machine_behind(scene: Scene, effect: bool) -> None:
    class Killed(BaseException):
        pass

    create = scene.provider._cloud.create

    def dies(offer_id: int, request: Any) -> int:
        if effect:
            create(offer_id, request)
        raise Killed

    scene.provider._cloud.create = dies  # type: ignore[method-assign]
    scene.wants()
    with pytest.raises(Killed):
        scene.provider.reconcile()
    after = scene.another()
    scene.go_on(5, after)
    assert scene.stages() == [Stage.BOOTING if effect else Stage.AMBIGUOUS]
    scene.go_on(50, after)
    assert scene.creates == (1 if effect else 0)
    scene.go_on(90, after)
    assert scene.stages() == [Stage.IDLE]
    assert len(scene.vast.alive()) == 1


def test_what_a_gateway_sends_that_wakes_in_the_creation_is_found(scene: Scene) -> None:
    """It is stopped behind the last check: what it creates late has a label whose slot was given to another."""
    stopped, other = scene.provider, scene.another()
    create = stopped._cloud.create

    def sleeps(offer_id: int, request: Any) -> int:
        scene.vast.advance(LEASE_MS / 1000 + 1)
        scene.go_on(200, other)
        return create(offer_id, request)

    stopped._cloud.create = sleeps  # type: ignore[method-assign]
    (attempt,) = scene.wants()
    scene.round(stopped)
    assert len(scene.vast.alive()) == 2
    scene.go_on(70, other)
    assert len(scene.vast.alive()) == 1
    assert orphans(scene.store) == 1
    scene.over(attempt)
    scene.ends_with_nothing()

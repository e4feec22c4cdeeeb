"""Attempts on rented machines: which machine gets one, what an attempt gets, and what it costs."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from gateway.db import rental_store
from gateway.domain.attempts import AttemptState
from gateway.domain.rentals import Stage
from gateway.providers.base import Accepted, NoCapacity, NotYet, Phase, Unavailable
from gateway.providers.worker_client import WorkerClient
from tests.emulators.vast import offer
from tests.gateway.conftest import on_every_database
from tests.gateway.providers.conftest import job_input
from tests.gateway.providers.vast_scene import Scene


def test_two_jobs_at_once_on_one_machine_when_configured(scene: Scene) -> None:
    scene.change(concurrency=2)
    attempts = scene.wants(2)
    scene.until(lambda: Stage.IDLE in scene.stages())
    assert all(isinstance(scene.submit(attempt), Accepted) for attempt in attempts)
    (third,) = scene.wants()
    assert scene.submit(third) == NotYet("all rented machines are busy", 2.0)
    assert scene.creates == 1


def test_a_warm_machine_takes_the_next_job(scene: Scene) -> None:
    ready = scene.ready()
    for _ in range(3):
        attempt = scene.accepted()
        assert scene.fresh(attempt).remote_id == f"{ready.id}:{attempt.id}"
        scene.go_on(60)
        scene.over(attempt)
    assert scene.creates == 1


@on_every_database
def test_a_machine_has_one_job_at_a_time_whoever_asks(scene: Scene) -> None:
    scene.ready()
    attempts = scene.wants(8)
    providers = [scene.provider, scene.another()]
    answers: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(scene.submit(attempts[n], providers[n % 2])))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(answer, Accepted) for answer in answers) == 1
    assert sum(scene.fresh(attempt).remote_id is not None for attempt in attempts) == 1


def test_a_moved_worker_is_found_before_the_next_job(scene: Scene) -> None:
    scene.ready()
    scene.vast.advance(20)
    (rental,) = scene.vast.alive()
    scene.vast.strike(rental.id, "moved")
    scene.accepted()


@pytest.mark.parametrize("end", ["dies", "vanishes", "stopped"])
def test_a_job_whose_worker_is_gone_is_reported_so(scene: Scene, end: str) -> None:
    attempt = scene.busy()
    scene.vast.strike(scene.vast.alive()[0].id, end)
    scene.go_on(10)
    assert scene.provider.poll(scene.fresh(attempt)).phase is Phase.GONE
    scene.provider.cancel(scene.fresh(attempt))
    scene.over(attempt)
    scene.ends_with_nothing()
    assert rental_store.Rentals(scene.store, "vast").avoided(scene.clock.now_ms())


def test_an_attempt_that_never_got_a_machine_goes_elsewhere(scene: Scene) -> None:
    (attempt,) = scene.wants()
    with pytest.raises(NoCapacity):
        scene.provider.poll(replace(attempt, state=AttemptState.AMBIGUOUS))


def test_an_attempt_in_other_hands_is_not_sent(scene: Scene) -> None:
    scene.ready()
    (attempt,) = scene.wants()
    scene._save(attempt, state=AttemptState.AMBIGUOUS)
    assert isinstance(scene.submit(attempt), NotYet)
    assert scene.vast.alive()[0].jobs == []


@pytest.mark.slow
def test_jobs_wait_for_the_place_of_a_machine_that_is_going_and_go_elsewhere_if_it_stays(scene: Scene) -> None:
    scene.change(max_instances=1)
    scene.ready()
    never = scene.vast.inject("ignored", "destroy", times=1000)
    scene.until(lambda: scene.stages() == [Stage.DESTROYING])
    (attempt,) = scene.wants()
    held = "every place is held by a machine that is being destroyed"
    assert scene.submit(attempt) == NotYet(held, 2.0)
    scene.go_on(40)
    with pytest.raises(NoCapacity, match=held):
        scene.submit(attempt)
    assert scene.creates == 1
    scene.vast.faults.clear()
    scene.go_on(10)
    assert never.hits > 1
    assert isinstance(scene.submit(attempt), NotYet), "there is a place again"
    assert scene.creates == 2


def test_without_any_instance_allowed_all_machines_go(scene: Scene) -> None:
    scene.ready()
    scene.change(max_instances=0)
    (attempt,) = scene.wants()
    with pytest.raises(NoCapacity, match="VAST_MAX_INSTANCES"):
        scene.submit(attempt)
    scene.ends_with_nothing()
    assert scene.creates == 1


def test_an_attempt_that_was_bound_before_the_budget_was_spent_is_sent_again(scene: Scene) -> None:
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.provider.submit(attempt, job_input(attempt)), Accepted)  # and the gateway is killed
    assert isinstance(scene.submit(attempt, scene.another(daily_budget=0.0)), Accepted)


def test_machines_are_adopted_by_the_gateway_that_comes_next(scene: Scene) -> None:
    ready = scene.ready()
    scene.provider = scene.another()
    attempt = scene.accepted()
    assert scene.fresh(attempt).remote_id == f"{ready.id}:{attempt.id}"


def test_a_price_is_that_of_the_machine(scene: Scene) -> None:
    (attempt,) = scene.wants()
    assert scene.provider.price(attempt, None).nano_per_s == round(1e9 / 3600)
    scene.vast.account.offers[:] = [offer(7, gpu_name="RTX 4090", dph_total=0.36)]
    scene.until(lambda: scene.stages() == [Stage.READY] or scene.stages() == [Stage.IDLE])
    for gpu in ("NVIDIA GeForce RTX 4090", None, "NVIDIA L4"):
        price = scene.provider.price(attempt, gpu)
        assert (price.nano_per_s, price.idle_s) == (100_000, 300)
    assert isinstance(scene.submit(attempt), Accepted)
    scene.over(attempt)
    scene.until(lambda: not scene.stages())
    scene.vast.account.offers[:] = [offer(8, gpu_name="RTX 4090", dph_total=0.72)]
    scene.ready()
    on_the_first = scene.fresh(attempt)
    assert scene.provider.price(on_the_first, "NVIDIA GeForce RTX 4090").nano_per_s == 100_000
    assert scene.provider.price(on_the_first, None).nano_per_s == 100_000, "it failed, and reported no GPU"
    assert scene.another(concurrency=2).price(on_the_first, None).nano_per_s == 50_000, "its share"


@pytest.mark.parametrize(("refuses", "device"), [(False, "gpu"), (True, "cpu")])
def test_a_worker_says_whether_its_gpu_encoded(scene: Scene, refuses: bool, device: str) -> None:
    machine = offer(7)
    scene.vast.account.offers[:] = [machine]
    scene.vast.configure(refusing_machines=[machine["machine_id"]] if refuses else [])
    attempt = scene.busy()
    scene.go_on(10)
    result = scene.provider.poll(scene.fresh(attempt)).result
    assert result is not None
    assert (result["stats"]["device"], "gpu_failure" in result["stats"]) == (device, refuses)


def test_the_first_attempt_on_a_machine_bears_the_pull_of_the_image(scene: Scene) -> None:
    scene.vast.account.offers[:] = [offer(7, inet_down_cost=0.02, inet_up_cost=0.01)]
    scene.change(image_gb=0.5)
    first = scene.busy()
    price = scene.provider.price(scene.fresh(first), None)
    assert (price.traffic.down, price.traffic.up, price.pull_nano) == (20_000_000, 10_000_000, 10_000_000)
    scene.go_on(10)
    scene.over(first)
    second = scene.accepted()
    assert scene.provider.price(scene.fresh(second), None).pull_nano == 0
    assert scene.provider.price(scene.fresh(first), None).pull_nano == 10_000_000


def test_an_attempt_that_the_machine_did_not_take_bears_no_pull(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.vast.account.offers[:] = [offer(7, inet_down_cost=0.02)]
    scene.ready()
    (turned_away,) = scene.wants()
    with monkeypatch.context() as patch:
        patch.setattr(WorkerClient, "submit", lambda *_: NotYet("busy", 2.0))
        assert isinstance(scene.submit(turned_away), NotYet)
    scene.over(turned_away)
    taken = scene.accepted()
    assert scene.provider.price(scene.fresh(taken), None).pull_nano == 10_000_000
    assert scene.provider.price(scene.fresh(turned_away), None).pull_nano == 0


def test_a_machine_that_is_too_old_for_a_job_gets_none(scene: Scene) -> None:
    scene.change(max_lifetime=1500, idle_timeout=3600)
    scene.ready()
    scene.vast.advance(1500 - 720)
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), NotYet)
    scene.go_on(40)
    assert scene.creates == 2
    assert isinstance(scene.submit(attempt), Accepted)


def test_a_machine_rented_after_the_limit_holds_no_job(scene: Scene) -> None:
    """Else one that never comes up would keep the job until the next one is rented, and so on for ever."""
    scene.change(providers=("runpod", "vast"), queue_limit_s=30)
    scene.vast.configure(boot_s=1000)
    (attempt,) = scene.wants()
    scene.vast.advance(31)
    scene.round()
    assert scene.submit(attempt) == NotYet("a machine is booting, 0 s so far", 2.0, coming=False)


def test_a_machine_that_comes_up_while_a_late_job_looks_for_one_keeps_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.change(providers=("runpod", "vast"), queue_limit_s=30)
    scene.vast.configure(boot_s=100)
    (attempt,) = scene.wants()
    scene.round()
    scene.vast.advance(60)

    def up_by_now() -> NotYet:
        scene.until(lambda: not {Stage.READY, Stage.IDLE}.isdisjoint(scene.stages()))
        return NotYet("all rented machines are busy", 5)

    with monkeypatch.context() as patch:
        patch.setattr(scene.provider, "_not_yet", up_by_now)
        answer = scene.submit(attempt)
        assert isinstance(answer, NotYet) and answer.coming
    assert isinstance(scene.submit(attempt), Accepted)


def test_a_rental_in_doubt_holds_no_job_while_vast_is_down(scene: Scene) -> None:
    (attempt,) = scene.wants()
    scene.vast.inject("lost_reply", "create", times=1)
    scene.round()
    assert scene.stages() == [Stage.AMBIGUOUS]
    assert scene.submit(attempt) == NotYet("a machine is being rented", 2.0)
    scene.vast.inject("status", "list", status=500, times=9)
    scene.go_on(10)
    assert scene.stages() == [Stage.AMBIGUOUS]
    with pytest.raises(Unavailable):
        scene.submit(attempt)

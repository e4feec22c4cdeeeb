"""Rounds of several gateways."""

from __future__ import annotations

from gateway.domain.rentals import Stage
from gateway.providers.rental.fleet import LEASE_MS
from tests.gateway.conftest import on_every_database
from tests.gateway.providers.vast_scene import Scene


def test_without_jobs_nothing_is_rented(scene: Scene) -> None:
    scene.go_on(130, every_s=5)
    assert scene.creates == 0
    assert scene.vast.calls["list"] == 3  # at the start, then every minute


def test_only_one_gateway_is_in_a_round(scene: Scene) -> None:
    now = scene.clock.now_ms()
    with scene.store.transaction() as tx:
        assert tx.hold(scene.provider._manager.lease, "another", now, now + LEASE_MS)
    scene.wants()
    scene.go_on(LEASE_MS / 1000 - 5)
    assert scene.vast.calls == {}
    scene.go_on(10)
    assert scene.creates == 1


def test_rounds_go_on_when_the_clock_goes_back(scene: Scene) -> None:
    scene.wants()
    scene.round()
    scene.vast.clock.move(-3600)
    scene.vast.reset_calls()
    scene.round()
    assert scene.vast.calls["list"] == 1


@on_every_database
def test_a_gateway_that_wakes_after_its_lease_creates_nothing_twice(scene: Scene) -> None:
    """It is stopped before CREATING is committed; the other one goes on."""
    stopped, other = scene.provider, scene.another()

    def sleeps() -> None:
        scene.vast.advance(LEASE_MS / 1000 + 1)
        scene.go_on(10, other)

    stopped._cloud.await_create = sleeps  # type: ignore[method-assign]
    scene.wants()
    scene.round(stopped)
    assert scene.creates == 1
    assert [i.stage for i in scene.all()] == [Stage.NO_MACHINE, Stage.BOOTING]

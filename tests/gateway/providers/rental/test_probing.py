"""Workers that answer, do not answer, or do not let the gateway in."""

from __future__ import annotations

import threading

import pytest

from gateway.domain.rentals import Stage
from gateway.providers.base import Phase, Unavailable
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental import labels
from gateway.providers.rental.addresses import Addresses
from gateway.providers.worker_client import NotAllowed
from tests.gateway.providers.vast_scene import RENTAL, Scene
from tests.servers import FileServer, Reply


@pytest.mark.slow
def test_a_machine_whose_worker_falls_silent_is_replaced(scene: Scene, impatient: None) -> None:
    attempt = scene.busy()
    scene.vast.strike(scene.vast.alive()[0].id, "black_hole")
    scene.go_on(55)
    assert scene.stages() == [Stage.BUSY]
    scene.go_on(20)
    assert scene.provider.poll(scene.fresh(attempt)).phase is Phase.GONE
    scene.over(attempt)
    scene.ends_with_nothing()
    assert [i.code for i in scene.all()] == ["worker_lost"]


@pytest.mark.slow
def test_while_vast_does_not_answer_either_no_worker_is_given_up(scene: Scene, impatient: None) -> None:
    scene.busy()
    scene.vast.inject("lost_request", "list", times=1000)
    scene.vast.strike(scene.vast.alive()[0].id, "black_hole")
    scene.go_on(180)
    assert scene.stages() == [Stage.BUSY]
    with pytest.raises(Unavailable):
        scene.provider.workers()


def test_a_worker_that_is_slow_to_answer_holds_up_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.providers.rental.probing.ASK_S", 0.3)
    ready, released, too_late = scene.ready(), threading.Event(), threading.Event()

    class Slow:
        def health(self) -> None:
            if not released.wait(60):
                too_late.set()
            raise Unavailable("too late")

    monkeypatch.setattr(scene.provider._workers, "of", lambda rental: Slow())
    orphan = scene.vast.foreign(labels.label("test", RENTAL, 1_700_000_000))
    scene.wants(2)
    try:
        scene.go_on(5)
    finally:
        released.set()
    assert not too_late.is_set(), "it was waited for"
    assert not next(i for i in scene.vast.instances if i.id == orphan).alive
    silent = scene.rows.get(ready.id)
    assert silent is not None and silent.silent_since is not None
    assert scene.creates == 2


def test_ports_that_come_late_are_waited_for(scene: Scene) -> None:
    scene.vast.inject("ports_late", "boot", times=1, seconds=60)
    scene.ready()
    assert scene.creates == 1


class LetsNobodyIn:
    def health(self) -> None:
        raise NotAllowed("9.9.9.9")


@pytest.fixture
def addresses(scene: Scene, files: FileServer) -> Addresses:
    files.routes["/"] = Reply(body=b"8.8.8.8")
    addresses = Addresses(VastSettings(), scene.clock, files.url("/"), (files.origin,))
    scene.provider._manager.addresses = scene.provider._manager._provisioner._addresses = addresses
    return addresses


def test_it_is_given_back_and_the_next_one_lets_the_other_address_in(
    scene: Scene, addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.provider._workers, "of", lambda rental: LetsNobodyIn())
    scene.wants()
    scene.until(lambda: len(scene.vast.instances) == 2, 60)
    first, second = scene.vast.instances
    assert first.env["ALLOWED_IPS"] == "8.8.8.8"
    assert second.env["ALLOWED_IPS"] == "8.8.8.8,9.9.9.9"
    assert first.label not in {rental.label for rental in scene.vast.alive()}
    assert Stage.READY not in scene.stages()
    assert scene.all()[0].code == "not_let_in"
    assert scene.rows.avoided(scene.clock.now_ms()) == set(), "it is not the host's fault"


def test_one_that_works_comes_to_its_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = scene.busy()
    monkeypatch.setattr(scene.provider._workers, "of", lambda rental: LetsNobodyIn())
    scene.go_on(200)
    assert scene.stages() == [Stage.BUSY]
    scene.over(attempt)
    scene.go_on(15)
    assert [i.code for i in scene.all()] == ["not_let_in"]
    assert scene.vast.alive() == []


def test_without_a_known_address_nothing_is_rented(scene: Scene, addresses: Addresses, files: FileServer) -> None:
    files.routes["/"] = Reply(500)
    scene.wants()
    scene.go_on(120)
    assert scene.creates == 0
    files.routes["/"] = Reply(body=b"8.8.8.8")
    scene.until(lambda: scene.creates == 1, 120)

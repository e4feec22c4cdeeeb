"""A machine that lets us in from another address than ours."""

from __future__ import annotations

import pytest

from gateway.domain.rentals import Stage
from gateway.providers.base import Accepted
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.addresses import Addresses
from gateway.providers.worker_client import NotAllowed
from tests.gateway.providers.vast_scene import Scene
from tests.servers import FileServer, Reply


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
    scene.ready()
    (attempt,) = scene.wants()
    assert isinstance(scene.submit(attempt), Accepted)
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
    assert scene.vast.calls["create"] == 0
    files.routes["/"] = Reply(body=b"8.8.8.8")
    scene.until(lambda: scene.vast.calls["create"] == 1, 120)

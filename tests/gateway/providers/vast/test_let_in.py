"""A machine that lets us in from another address than ours."""

from __future__ import annotations

import pytest

from gateway.instances import Stage
from gateway.providers.vast.addresses import Addresses
from gateway.providers.worker_client import NotAllowed
from tests.gateway.providers.vast.conftest import Scene
from tests.servers import FileServer, Reply


class LetsNobodyIn:
    def health(self) -> None:
        raise NotAllowed("9.9.9.9")


@pytest.fixture
def addresses(scene: Scene, files: FileServer) -> Addresses:
    files.routes["/"] = Reply(body=b"8.8.8.8")
    addresses = Addresses((), scene.clock, files.url("/"), (files.origin,))
    scene.provider._keeper.addresses = scene.provider._keeper.landlord._addresses = addresses
    return addresses


def test_it_is_given_back_and_the_next_one_lets_the_other_address_in(
    scene: Scene, addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.provider._workers, "of", lambda instance: LetsNobodyIn())
    scene.wants()
    scene.until(lambda: len(scene.vast.instances) == 2)
    first, second = scene.vast.instances
    assert first.env["ALLOWED_IPS"] == "8.8.8.8"
    assert second.env["ALLOWED_IPS"] == "8.8.8.8,9.9.9.9"
    assert first.label not in {instance.label for instance in scene.vast.alive()}
    assert Stage.READY not in scene.stages()


def test_without_a_known_address_nothing_is_rented(scene: Scene, addresses: Addresses, files: FileServer) -> None:
    files.routes["/"] = Reply(500)
    scene.wants()
    scene.go_on(120)
    assert scene.vast.calls["create"] == 0
    files.routes["/"] = Reply(body=b"8.8.8.8")
    scene.until(lambda: scene.vast.calls["create"] == 1, 120)

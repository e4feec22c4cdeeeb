"""Machines that are being destroyed, until there is proof."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.domain.rentals import Stage
from tests.gateway.providers.vast_scene import Scene


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "more"), [
    ("ignored", {}), ("status", {"status": 500}), ("rate_limited", {}), ("auth_error", {}), ("lost_request", {}),
    ("lost_reply", {}), ("garbage", {"body": "{}"}),
])  # fmt: skip
def test_a_destroy_is_repeated_until_there_is_proof(scene: Scene, fault: str, more: dict[str, Any]) -> None:
    scene.ready()
    scene.go_on(295)
    injected = scene.vast.inject(fault, "destroy", times=3, **more)
    scene.go_on(35)
    # these two destroy the machine at once
    assert injected.hits >= (1 if fault in {"lost_reply", "garbage"} else 3)
    assert scene.vast.alive() == []
    assert scene.stages() == []


def test_a_wrong_key_proves_no_end(scene: Scene) -> None:
    scene.ready()
    scene.vast.configure(api_key="another")
    scene.go_on(900, every_s=30)
    assert scene.stages() == [Stage.DESTROYING]
    scene.vast.configure(api_key=scene.own.api_key)
    scene.go_on(15)
    assert scene.stages() == []
    assert scene.vast.alive() == []

"""The life of a rental, and every way in which it goes wrong: nothing stays, and nothing of others is touched."""

from __future__ import annotations

from gateway.instances import Stage
from gateway.providers.base import Accepted, NotYet, Phase
from tests.gateway.providers.vast.conftest import Scene


def test_without_jobs_nothing_is_rented(scene: Scene) -> None:
    scene.go_on(130)
    assert scene.vast.calls["create"] == 0
    assert scene.vast.calls["list"] == 3  # at the start, then every minute


def test_a_job_gets_a_machine_which_goes_when_nobody_needs_it(scene: Scene) -> None:
    (attempt,) = scene.wants()
    assert scene.submit(attempt) == NotYet("a machine will be rented", 2.0)
    scene.round()
    (instance,) = scene.vast.alive()
    assert (instance.offer["gpu_name"], instance.offer["dph_total"]) == ("RTX 3060", 0.08)
    assert instance.label == scene.rows.living()[0].label
    scene.go_on(15)
    assert scene.submit(attempt) == NotYet("a machine is booting, 15 s so far", 2.0)
    scene.go_on(10)
    assert scene.stages() == [Stage.IDLE]
    answer = scene.submit(attempt)
    assert isinstance(answer, Accepted)
    assert scene.stages() == [Stage.BUSY]
    attempt = scene.fresh(attempt)
    assert attempt.remote_id == f"{scene.rows.living()[0].id}:{attempt.id}"
    scene.vast.advance(2)
    assert scene.provider.poll(attempt).phase is Phase.COMPLETED
    scene.over(attempt)
    scene.go_on(295)
    assert scene.stages() == [Stage.IDLE]
    scene.go_on(15)
    assert scene.stages() == []
    assert scene.vast.alive() == []
    assert [i.code for i in scene.all()] == ["idle"]

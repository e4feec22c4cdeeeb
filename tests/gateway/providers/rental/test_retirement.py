"""Machines that are destroyed, and why."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.rentals import OVER, Stage
from gateway.providers.base import Accepted, NotYet, Phase
from tests.gateway.conftest import new_attempt
from tests.gateway.providers.vast_scene import Scene
from tests.servers import eventually
from wire.errors import EncoderUnavailable, EncoderUnsuitable, JobError


@pytest.mark.slow
def test_a_job_gets_a_machine_which_goes_when_no_job_needs_it(scene: Scene) -> None:
    (attempt,) = scene.wants()
    assert scene.submit(attempt) == NotYet("a machine will be rented", 2.0)
    scene.round()
    (rental,) = scene.vast.alive()
    assert (rental.offer["gpu_name"], rental.offer["dph_total"]) == ("RTX 3060", 0.08)
    assert rental.label == scene.rows.living()[0].label
    assert (rental.image, rental.runtype) == ("acme/reelay-worker:1.0", "args")
    scene.go_on(15)
    assert scene.submit(attempt) == NotYet("a machine is booting, 15 s so far", 2.0, coming=True)
    scene.go_on(10)
    assert scene.stages() == [Stage.IDLE]
    assert isinstance(scene.submit(attempt), Accepted)
    assert scene.stages() == [Stage.BUSY]
    attempt = scene.fresh(attempt)
    assert attempt.remote_id == f"{scene.rows.living()[0].id}:{attempt.id}"
    scene.vast.advance(2)
    assert scene.provider.poll(attempt).phase is Phase.COMPLETED
    scene.over(attempt)
    scene.go_on(295, every_s=5)
    assert scene.stages() == [Stage.IDLE]
    scene.go_on(15)
    assert scene.stages() == []
    assert scene.vast.alive() == []
    assert [i.code for i in scene.all()] == ["idle"]
    assert scene.vast.unfit == []


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "more", "within_s"), [
    ("never_runs", {}, 700), ("pull_fails", {"word": "exited"}, 100), ("pull_fails", {"word": "offline"}, 100),
    ("no_worker", {}, 700), ("black_hole", {}, 150), ("slow_boot", {"seconds": 700.0}, 700),
])  # fmt: skip
def test_a_machine_that_does_not_come_up_makes_room_for_another(
    scene: Scene, fault: str, more: dict[str, Any], within_s: float, impatient: None
) -> None:
    scene.vast.inject(fault, "boot", times=1, **more)
    (attempt,) = scene.wants()
    scene.round()
    first = scene.rows.living()[0]
    scene.until(lambda: scene.creates == 2, within_s)
    scene.until(lambda: Stage.IDLE in scene.stages(), 100)
    assert first.machine_id in scene.rows.avoided(scene.clock.now_ms())
    assert scene.rows.living()[-1].machine_id != first.machine_id
    scene.over(attempt)
    scene.ends_with_nothing()
    scene.vast.advance(3600)
    assert scene.rows.avoided(scene.clock.now_ms()) == set()


@pytest.mark.slow
def test_no_machine_outlives_its_deadline_even_with_a_job(scene: Scene) -> None:
    scene.change(max_lifetime=1500)
    scene.busy()
    scene.go_on(1460, every_s=40)
    assert scene.stages() == [Stage.BUSY]
    scene.go_on(50)
    assert scene.vast.alive() == []
    assert [i.code for i in scene.all()] == ["lifetime"]


def test_a_machine_that_becomes_too_dear_goes(scene: Scene) -> None:
    scene.ready()
    scene.change(max_price=0.05)
    scene.go_on(15)
    assert [i.code for i in scene.all()] == ["price"]
    assert scene.vast.alive() == []


@pytest.mark.slow
def test_a_machine_whose_encoder_does_not_work_is_given_back_and_avoided(scene: Scene) -> None:
    ready = scene.ready()
    attempt = scene.accepted()
    scene._save(attempt, state=AttemptState.FAILED, error_code=EncoderUnavailable.code)
    scene.go_on(15)
    assert [i.code for i in scene.all()] == ["encoder_unavailable"]
    assert scene.vast.alive() == []
    assert scene.rows.avoided(scene.clock.now_ms()) == {ready.machine_id}
    scene.ready()
    assert len(scene.vast.alive()) == 1, "the next machine is not to blame"


@pytest.mark.slow
def test_a_machine_whose_gpu_does_not_encode_finishes_its_jobs_gets_no_other_and_is_avoided(scene: Scene) -> None:
    scene.change(concurrency=2, max_instances=2)
    ready = scene.ready()
    on_the_cpu, running = scene.accepted(), scene.accepted()
    assert {ready.has(scene.fresh(attempt).remote_id) for attempt in (on_the_cpu, running)} == {True}
    scene._save(on_the_cpu, gpu_failure="the driver found no GPU")
    scene.over(on_the_cpu)
    scene.round()
    (waiting,) = scene.wants()
    refused = scene.submit(waiting)
    assert isinstance(refused, NotYet)
    assert refused.reason == "all rented machines are busy", "it has a free place, and gets no job"
    assert scene.rows.avoided(scene.clock.now_ms()) == {ready.machine_id}
    scene.go_on(15)
    assert len(scene.rows.living()) == 2, "another machine is rented for it meanwhile"
    scene.over(running)
    scene.go_on(15)
    (gone,) = (rental for rental in scene.all() if rental.id == ready.id)
    assert (gone.stage in OVER, gone.code, gone.reason) == (True, "encoder_unavailable", "its GPU does not encode")


@pytest.mark.parametrize("error", [EncoderUnavailable, EncoderUnsuitable])
def test_a_job_does_not_return_to_a_machine_that_had_no_encoder_for_it(scene: Scene, error: type[JobError]) -> None:
    """Its retry may come before the fleet manager has looked at the machine."""
    ready = scene.ready()
    attempt = scene.accepted()
    scene.vast.advance(30)  # the worker has a free place again
    scene._save(attempt, state=AttemptState.FAILED, error_code=error.code)
    with scene.store.transaction() as tx:
        job = tx.job(attempt.job_id)
        assert job is not None
        again = new_attempt(job, scene.clock.now_ms(), provider="vast", sent_at=None)
        tx.add_attempt(again)
        tx.save_job(replace(job, attempt_id=again.id))
    assert isinstance(scene.submit(again), NotYet)
    assert ready.has(scene.fresh(scene.accepted()).remote_id), "another job may go there"
    scene.round()
    assert (scene.rows.get(ready.id).code is None) is (error is EncoderUnsuitable)  # type: ignore[union-attr]


@pytest.mark.parametrize(("codes", "goes"), [
    (["worker_disk_full", "worker_disk_full"], True), (["upload_failed", "gateway_unreachable"], True),
    (["worker_error", None, "worker_error"], False), (["worker_error"], False),
    (["asset_invalid", "asset_invalid"], False),
])  # fmt: skip
def test_a_machine_where_two_jobs_in_a_row_fail_by_its_fault_goes(
    scene: Scene, codes: list[str | None], goes: bool
) -> None:
    ready = scene.ready()
    for code in codes:
        (attempt,) = scene.wants()
        # in real time, its worker may not have ended the one before yet
        eventually(partial(_is_taken, scene, attempt))
        scene.over(attempt)
        if code is not None:
            scene._save(attempt, state=AttemptState.FAILED, error_code=code)
        scene.vast.advance(1)
    scene.go_on(5)
    assert [i.code for i in scene.all()] == ([codes[-1]] if goes else [None])
    assert scene.rows.avoided(scene.clock.now_ms()) == ({ready.machine_id} if goes else set())


def _is_taken(scene: Scene, attempt: Attempt) -> bool:
    return isinstance(scene.submit(attempt), Accepted)

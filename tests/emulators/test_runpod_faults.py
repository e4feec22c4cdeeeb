"""Each fault does what it says, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.emulators.conftest import INPUT, TIMEOUT_S, Caller, MakeEmulator, PlayedWorker
from tests.emulators.runpod import Emulator, Fault
from tests.servers import eventually

Call = Callable[[Emulator], Caller]
Play = Callable[..., PlayedWorker]


def queued(emulator: Emulator) -> int:
    return emulator.queue.counts()["inQueue"]


def finished(caller: Caller, worker: PlayedWorker, **result: Any) -> str:
    job_id = caller.run()
    worker.take()
    worker.done(job_id, **(result or {"output": "result"}))
    return job_id


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_status_is_answered_for_the_next_calls_and_nothing_is_done(
    emulator: Emulator, caller: Caller, status: int
) -> None:
    emulator.inject("status", "run", status=status, times=2)
    assert [caller.post("run", {"input": INPUT}).status_code for _ in range(3)] == [status, status, 200]
    assert queued(emulator) == 1
    assert emulator.calls["run"] == 3


@pytest.mark.parametrize(("kind", "effect"), [("lost_request", 0), ("lost_reply", 1)])
def test_a_lost_call_ends_in_a_broken_connection(emulator: Emulator, caller: Caller, kind: str, effect: int) -> None:
    caller.health()  # the connection is one that was kept
    emulator.inject(kind, "run")
    with pytest.raises(requests.ConnectionError):
        caller.post("run", {"input": INPUT})
    assert queued(emulator) == effect
    caller.run()


def test_slow_answers_late_and_does_its_work_at_once(emulator: Emulator, caller: Caller) -> None:
    """The work is done while the answer is still out: its caller gives up first."""
    emulator.inject("slow", "run", seconds=5)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{caller.base}/run",
            json={"input": INPUT},
            headers={"Authorization": f"Bearer {emulator.config.api_key}"},
            timeout=1,
        )
    assert queued(emulator) == 1


def test_garbage_follows_the_effect(emulator: Emulator, caller: Caller) -> None:
    emulator.inject("garbage", "run")
    answer = caller.post("run", {"input": INPUT})
    assert answer.status_code == 200
    with pytest.raises(ValueError):
        answer.json()
    assert queued(emulator) == 1
    emulator.inject("garbage", "status", body='{"status": "DANCING"}')
    assert caller.get("status/x").json() == {"status": "DANCING"}


def test_a_result_expires_for_good(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    job_id, other = finished(caller, worker), finished(caller, worker)
    emulator.inject("expired", "status")
    assert caller.get(f"status/{job_id}").status_code == 404
    assert caller.get(f"status/{job_id}").status_code == 404
    assert caller.status(other)["status"] == "COMPLETED"


def test_late_progress_overwrites_the_end(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    emulator.inject("late_progress", "job-done", seconds=1)
    job_id = caller.run()
    worker.take()
    worker.done(job_id, status="IN_PROGRESS", output={"progress": 0.9})
    worker.done(job_id, output="result")
    assert caller.status(job_id)["status"] == "COMPLETED"
    eventually(lambda: caller.status(job_id)["status"] == "IN_PROGRESS")
    assert caller.status(job_id)["output"] == {"progress": 0.9}


def test_late_progress_is_harmless_without_the_fault(caller: Caller, worker: PlayedWorker) -> None:
    job_id = finished(caller, worker)
    worker.done(job_id, status="IN_PROGRESS", output=0.99)
    assert caller.status(job_id)["output"] == "result"
    assert caller.status(job_id)["status"] == "COMPLETED"


def test_an_oversize_result_is_lost(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    emulator.inject("oversize", "job-done")
    ended = caller.status(finished(caller, worker))
    assert ended["status"] == "COMPLETED"
    assert "output" not in ended
    assert caller.status(finished(caller, worker))["output"] == "result"


def test_a_lost_reply_to_job_take_loses_the_job_with_it(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(lost_after_s=0.2)
    caller, worker = call(emulator), play(emulator)
    emulator.inject("lost_reply", "hand-over")
    assert worker.take() is None
    job_id = caller.run()
    with pytest.raises(requests.ConnectionError):
        worker.take()
    assert caller.status(job_id)["status"] == "IN_PROGRESS"
    eventually(lambda: caller.status(job_id) == {"id": job_id, "status": "IN_QUEUE", "retries": 1})


def test_a_star_is_every_call_of_the_job_api_and_no_other(
    emulator: Emulator, caller: Caller, worker: PlayedWorker
) -> None:
    emulator.inject("status", "*", status=503, times=None)
    assert {caller.get("health").status_code, caller.post("run").status_code} == {503}
    assert worker.take() is None
    emulator.faults.clear()
    caller.health()


def test_the_seed_picks_the_calls() -> None:
    def picked(seed: int) -> list[bool]:
        fault = Fault("status", "run", times=None, probability=0.3, seed=seed)
        return [fault.strikes("run") for _ in range(200)]

    assert picked(1) == picked(1) != picked(2)
    assert 30 < sum(picked(1)) < 90


@pytest.mark.parametrize(
    ("kind", "on"), [("nonsense", "run"), ("status", "dance"), ("kill", "run"), ("expired", "*"), ("crash", "run")]
)
def test_a_fault_that_makes_no_sense_is_refused(emulator: Emulator, kind: str, on: str) -> None:
    with pytest.raises(ValueError):
        emulator.inject(kind, on)
    answer = requests.post(f"{emulator.url}/_control/faults", json={"kind": kind, "on": on}, timeout=TIMEOUT_S)
    assert answer.status_code == 400


def test_the_controls_work_over_http(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    control = f"{emulator.url}/_control"
    asked = requests.post(f"{control}/faults", json={"kind": "status", "on": "run", "status": 429}, timeout=TIMEOUT_S)
    assert asked.status_code == 201
    assert caller.post("run", {"input": INPUT}).status_code == 429
    job_id = finished(caller, worker)
    state = requests.get(control, timeout=TIMEOUT_S).json()
    assert state["calls"] == {"run": 2, "job-take": 1, "job-done": 1}
    assert state["faults"][0]["hits"] == 1
    assert state["jobs"]["completed"] == 1
    assert requests.post(f"{control}/jobs/{job_id}/expire", timeout=TIMEOUT_S).status_code == 204
    assert caller.get(f"status/{job_id}").status_code == 404
    assert requests.post(f"{control}/jobs/{job_id}/expire", timeout=TIMEOUT_S).status_code == 400
    assert requests.post(f"{control}/workers/nobody/kill", timeout=TIMEOUT_S).status_code == 400
    assert requests.delete(f"{control}/faults", timeout=TIMEOUT_S).status_code == 204
    assert requests.delete(f"{control}/calls", timeout=TIMEOUT_S).status_code == 204
    assert requests.patch(f"{control}/config", json={"throttled": 2}, timeout=TIMEOUT_S).status_code == 204
    wrong: dict[str, Any]
    for wrong in ({"command": ["sh"]}, {"env": {}}, {"nonsense": 1}, {"max_workers": "many"}, {"max_workers": None}):
        assert requests.patch(f"{control}/config", json=wrong, timeout=TIMEOUT_S).status_code == 400
    state = requests.get(control, timeout=TIMEOUT_S).json()
    assert (state["calls"], state["faults"], state["workers"]["throttled"]) == ({}, [], 2)

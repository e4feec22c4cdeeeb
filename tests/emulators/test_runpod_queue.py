"""Times of the queue, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.emulators.runpod.calls import Limits, Problem
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.jobs import Job, Queue


class Stand:
    def __init__(self) -> None:
        self.time, self.config, self.ended = 1000.0, Config(lost_after_s=1e9), list[Job]()
        self.queue = Queue(lambda: self.config, self.ended.append, lambda: self.time)

    def submit(self, **policy: Any) -> Job:
        return self.queue.submit({"input": {"a": 1}, "policy": policy})

    def take(self, worker_id: str = "w") -> list[Job]:
        return self.queue.take(worker_id, 1, 0, lambda: True)

    def stops(self) -> list[str]:
        return self.queue.stops("w", 0, lambda: True)

    def after(self, seconds: float) -> None:
        self.time += seconds
        self.queue.sweep()


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_a_result_is_kept_for_half_an_hour(stand: Stand) -> None:
    job = stand.submit()
    stand.take()
    stand.queue.done("w", job.id, 1)
    stand.after(1800)
    assert stand.queue.get(job.id) is job
    stand.after(1)
    assert stand.queue.get(job.id) is None


def test_the_ttl_counts_from_the_submission_and_ends_running_jobs(stand: Stand) -> None:
    waiting, running = stand.submit(ttl=5000), stand.submit(ttl=5000)
    stand.queue._waiting.reverse()
    stand.after(4)
    assert stand.take() == [running]
    stand.after(1)
    assert stand.queue.get(running.id) is running
    stand.after(0.1)
    assert stand.queue.get(running.id) is None
    assert stand.queue.get(waiting.id) is None
    assert stand.stops() == [running.id]
    assert stand.take() == []


def test_a_job_that_runs_too_long_times_out_and_its_worker_is_told(stand: Stand) -> None:
    job = stand.submit(executionTimeout=2000)
    stand.after(100)
    stand.take()
    stand.after(2)
    assert job.status == "IN_PROGRESS"
    stand.after(0.1)
    assert job.document()["status"] == "TIMED_OUT"
    assert job.document()["delayTime"] == 100_000
    assert job.document()["executionTime"] == 2100
    assert stand.stops() == [job.id]
    assert stand.queue.done("w", job.id, 1) is None
    assert stand.ended == [job]


def test_life_has_its_defaults(stand: Stand) -> None:
    job = stand.submit()
    stand.take()
    stand.after(600)
    assert job.status == "IN_PROGRESS"
    stand.after(1)
    assert job.status == "TIMED_OUT"
    waiting = stand.submit()
    stand.after(86400)
    assert waiting.status == "IN_QUEUE"
    stand.after(1)
    assert stand.queue.get(waiting.id) is None


def test_a_lost_job_is_queued_once_more_with_the_same_input(stand: Stand) -> None:
    job = stand.submit()
    [first] = stand.take("one")
    handed = first.handed_over()
    stand.queue.lost("one")
    assert (job.status, job.retries, job.worker_id) == ("IN_QUEUE", 1, None)
    assert stand.queue.done("one", job.id, "too late") is None
    [second] = stand.take("two")
    assert second.handed_over() == handed
    stand.queue.lost("two")
    assert (job.status, job.error) == ("FAILED", "job timed out after 1 retries")
    assert stand.queue.totals == {"completed": 0, "failed": 1, "retried": 1}


def test_a_job_that_no_ping_names_is_lost(stand: Stand) -> None:
    stand.config = replace(stand.config, lost_after_s=10)
    named, forgotten = stand.submit(), stand.submit()
    stand.queue.take("w", 2, 0, lambda: True)
    stand.after(6)
    stand.queue.heard("w", [named.id])
    stand.queue.heard("other", [forgotten.id])
    stand.after(6)
    assert (named.status, forgotten.status) == ("IN_PROGRESS", "IN_QUEUE")


def test_a_job_is_not_lost_by_a_worker_that_has_ended_it(stand: Stand) -> None:
    job = stand.submit()
    stand.take()
    stand.queue.done("w", job.id, 1)
    stand.queue.lost("w")
    assert job.status == "COMPLETED"


def test_late_progress_stays_for_good(stand: Stand) -> None:
    job = stand.submit()
    stand.take()
    stand.queue.done("w", job.id, "result")
    stand.queue.overwrite(job, 0.99)
    stand.queue.lost("w")
    stand.after(3600)
    assert job.document()["status"] == "IN_PROGRESS"
    assert job.document()["output"] == 0.99
    stand.after(86400)
    assert stand.queue.get(job.id) is None


def test_an_expired_job_leaves_the_queue(stand: Stand) -> None:
    stand.queue.forget(stand.submit())
    assert stand.take() == []
    assert stand.queue.counts()["inQueue"] == 0


def test_a_window_slides() -> None:
    time = [0.0]
    limits = Limits(lambda: Config(limits={"run": (2, None)}), lambda: time[0])

    def admitted() -> bool:
        try:
            with limits.slot("run"):
                return True
        except Problem as error:
            assert error.status == 429
            return False

    assert admitted()
    time[0] = 6
    assert admitted()
    time[0] = 9.9
    assert not admitted()
    time[0] = 10
    assert admitted()
    assert not admitted()

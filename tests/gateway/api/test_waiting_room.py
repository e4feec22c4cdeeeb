"""Waiting for jobs: who is woken by what, and how much that costs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.api import waiting_room
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.errors import Unauthorized
from tests.gateway.conftest import RESULT, Gateway, JobFactory, Key, Wire, on_every_database
from tests.servers import eventually

While = Callable[[Job, Callable[[], object]], Job]


def test_the_job_so_far_is_returned_when_the_time_is_up(services: Gateway) -> None:
    job = services.add_job()
    assert services.waiting_room.wait([job], 0) == [job]
    assert services.waiting_room.wait([job], 0.05) == [job]
    assert not services.waiting_room._waiting


@pytest.fixture
def waited_while(services: Gateway) -> While:
    """What a waiter gets when something happens while it really waits."""

    def run(job: Job, happens: Callable[[], object]) -> Job:
        with ThreadPoolExecutor(1) as pool:
            waiter = pool.submit(services.waiting_room.wait, [job], 120)
            eventually(lambda: services.waiting_room._waiting)
            happens()
            [after] = waiter.result(60)
            return after

    return run


def test_a_wait_is_woken_by_the_end(services: Gateway, waited_while: While, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "LOOK_S", 3600)  # it does not see the end by itself
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    services.put_output(job.attempt_id)
    after = waited_while(job, lambda: services.report(job.attempt_id, "completed", result=RESULT))
    assert after.status is JobStatus.COMPLETED


@on_every_database
def test_a_wait_sees_what_another_process_committed(wire: Wire, job_factory: JobFactory, waited_while: While) -> None:
    assert waiting_room.LOOK_S <= 0.5
    job, other = job_factory(), wire()
    after = waited_while(job, lambda: other.jobs.cancel(job.id, job.key_id))
    assert after.status is JobStatus.CANCELLED


@on_every_database
def test_the_waits_of_a_key_end_when_it_is_revoked(
    wire: Wire, key: Key, job_factory: JobFactory, waited_while: While
) -> None:
    with pytest.raises(Unauthorized):
        waited_while(job_factory(), lambda: wire().keys.revoke(key.record.id))


def test_all_waits_end_when_the_server_stops(services: Gateway, waited_while: While) -> None:
    job = services.add_job()
    assert waited_while(job, services.waiting_room.close) == job


def test_a_hundred_waits_cost_one_look_and_the_end_of_one_wakes_no_other(
    services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "LOOK_S", 0.2)
    jobs = [services.add_job() for _ in range(100)]
    looks: list[int] = []
    reads: list[str] = []
    finished, read = services.store.finished, services.store.jobs_by_id
    enough = threading.Event()

    def counted(job_ids: set[str]) -> set[str]:
        looks.append(len(job_ids))
        if len([size for size in looks if size == 100]) == 3:
            enough.set()
        return finished(job_ids)

    monkeypatch.setattr(services.store, "finished", counted)
    monkeypatch.setattr(services.store, "jobs_by_id", lambda job_ids: reads.extend(job_ids) or read(job_ids))
    with ThreadPoolExecutor(100) as pool:
        waits = [pool.submit(services.waiting_room.wait, [job], 120) for job in jobs]
        assert enough.wait(60)
        assert len(reads) == 100, "each reads its job once, when it begins"
        services.jobs.cancel(jobs[0].id, jobs[0].key_id)
        assert waits[0].result(60)[0].status is JobStatus.CANCELLED
        assert len(reads) < 110
        services.waiting_room.close()
        assert [wait.result(60)[0].id for wait in waits] == [job.id for job in jobs]


def test_a_wait_for_many_ends_with_the_last_and_reads_them_when_it_begins_and_ends(
    services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "LOOK_S", 3600)
    jobs = [services.add_job(key_id="key_a") for _ in range(5)]
    jobs[1] = services.jobs.cancel(jobs[1].id, "key_a")
    reads: list[int] = []
    read = services.store.jobs_by_id
    monkeypatch.setattr(services.store, "jobs_by_id", lambda job_ids: reads.append(len(job_ids)) or read(job_ids))
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(services.waiting_room.wait, jobs, 120)
        eventually(lambda: reads)
        for job in (jobs[0], *jobs[2:]):
            assert not waiter.done()
            services.jobs.cancel(job.id, "key_a")
        after = waiter.result(60)
    assert [(job.id, job.status) for job in after] == [(job.id, JobStatus.CANCELLED) for job in jobs]
    assert reads == [4, 4], "not at every end"


@on_every_database
def test_a_wait_for_many_sees_what_another_process_committed(wire: Wire, services: Gateway) -> None:
    jobs, other = [services.add_job(key_id="key_a") for _ in range(3)], wire()
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(services.waiting_room.wait, jobs, 120)
        eventually(lambda: services.waiting_room._waiting)
        for job in jobs:
            other.jobs.cancel(job.id, "key_a")
        assert {job.status for job in waiter.result(60)} == {JobStatus.CANCELLED}


def test_the_time_for_many_ends_with_those_so_far(services: Gateway) -> None:
    ended, open_ = (services.add_job(key_id="key_a") for _ in range(2))
    services.jobs.cancel(ended.id, "key_a")
    after = services.waiting_room.wait([ended, open_], 0.05)
    assert [job.status for job in after] == [JobStatus.CANCELLED, JobStatus.QUEUED]

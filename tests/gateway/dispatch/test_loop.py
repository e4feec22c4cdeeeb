"""The dispatcher's rounds: leases, limits of concurrency, chores, and failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from gateway.dispatch import loop
from gateway.dispatch.loop import CHORE_MS, KEY_POOL, KEY_POOL_UNTRIED, LEASE_MS, POOL, POOL_UNTRIED, TICK_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.providers.base import Accepted, Phase, Remote, Unavailable
from tests.gateway.conftest import REQUEST, START_MS, Gateway, Wire, on_every_database, together
from tests.gateway.dispatch.support import COMPLETED
from tests.servers import eventually
from wire.errors import AssetNotFound


@contextmanager
def running(services: Gateway) -> Iterator[None]:
    """Run the dispatcher's loop inside the block."""
    thread = threading.Thread(target=services.dispatcher.run)
    thread.start()
    try:
        yield
    finally:
        services.dispatcher.request_stop()
        thread.join()


@on_every_database
@pytest.mark.parametrize("end", ["accepted", "completed", "failed"])
def test_the_job_that_waited_longest_is_woken_when_a_worker_may_be_free(services: Gateway, end: str) -> None:
    first = services.add_job(waits=3, next_at=START_MS + 9_000)
    second = services.add_job(waits=3, next_at=START_MS + 9_000)
    busy = services.add_job(attempt=AttemptState.SUBMITTED) if end != "accepted" else services.add_job()
    if end == "failed":
        services.provider.script("poll", Remote(Phase.FAILED, error=AssetNotFound()))
    if end == "completed":
        services.put_output(busy.attempt_id)
        services.provider.script("poll", COMPLETED)
    services.turn()
    assert services.job(first).next_at == START_MS
    assert services.job(second).next_at == START_MS + 9_000


@on_every_database
@pytest.mark.parametrize("end", ["accepted", "completed"])
def test_a_worker_that_becomes_free_goes_to_the_next_key(services: Gateway, end: str) -> None:
    """Also where the key that has just had it has waited longer, and no key has a running job."""
    waiting = [services.add_job(key_id=key_id, waits=3, next_at=START_MS + 9_000) for key_id in ("key_a", "key_b")]
    busy = services.add_job(key_id="key_a", attempt=AttemptState.SUBMITTED if end == "completed" else None)
    if end == "completed":
        services.put_output(busy.attempt_id)
        services.provider.script("poll", COMPLETED)
    services.turn()
    assert [services.job(job).next_at for job in waiting] == [START_MS + 9_000, START_MS]


def test_untried_jobs_go_before_polls(services: Gateway) -> None:
    followed = [services.add_job(attempt=AttemptState.SUBMITTED) for _ in range(3)]
    new = services.add_job()
    assert services.dispatcher._due(START_MS) == [new.id, *[job.id for job in followed]]


@on_every_database
def test_two_dispatchers_never_take_the_same_job(services: Gateway, wire: Wire) -> None:
    made = [services.add_job() for _ in range(30)]
    gateways = [services, wire(), wire()]

    def work(number: int) -> None:
        while gateways[number].turn():
            pass

    together(3, work)
    assert sorted(attempt.job_id for attempt in services.provider.called("submit")) == sorted(job.id for job in made)


def test_providers_are_called_concurrently_up_to_a_limit(services: Gateway) -> None:
    all_in = threading.Barrier(POOL + 1)
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Remote:
        all_in.wait(30)
        go_on.wait(30)
        return Remote(Phase.RUNNING)

    for number in range(POOL + 5):
        services.add_job(attempt=AttemptState.SUBMITTED, key_id=f"key_{number % 2}")
    services.provider.script("poll", *[slow] * POOL)
    assert services.dispatcher.tick() == POOL
    all_in.wait(30)
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert services.turn() == 5


def test_many_new_jobs_leave_room_for_polls(services: Gateway) -> None:
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        go_on.wait(30)
        return Accepted("r")

    services.provider.script("submit", *[slow] * POOL_UNTRIED)
    for number in range(POOL + 5):
        services.add_job(key_id=f"key_{number % 2}")
    assert services.dispatcher.tick() == POOL_UNTRIED
    followed = services.add_job(attempt=AttemptState.SUBMITTED)
    assert services.dispatcher.tick() == 1
    eventually(lambda: (services.job(followed).next_at or 0) > START_MS and not services.job(followed).lease_token)
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert services.turn() == POOL + 5 - POOL_UNTRIED


@on_every_database
def test_slow_jobs_of_one_key_leave_room_for_those_of_others(services: Gateway) -> None:
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Remote:
        go_on.wait(30)
        return Remote(Phase.RUNNING)

    services.provider.script("poll", *[slow] * KEY_POOL)
    for _ in range(3 * POOL):
        services.add_job(attempt=AttemptState.SUBMITTED, key_id="greedy")
    assert services.dispatcher.tick() == KEY_POOL
    assert services.dispatcher.tick() == 0
    other = services.add_job(key_id="modest")
    assert services.dispatcher.tick() == 1
    eventually(lambda: services.states(other) == [AttemptState.SUBMITTED])
    go_on.set()
    services.dispatcher.settle()


def test_new_jobs_of_one_key_are_not_all_begun_before_the_first_of_another(services: Gateway) -> None:
    for _ in range(3 * POOL):
        services.add_job(key_id="greedy")
    others = {services.add_job(key_id="modest").id for _ in range(2)}
    chosen = services.dispatcher._due(services.clock.now_ms())
    assert others < set(chosen)
    assert len(chosen) == KEY_POOL_UNTRIED + 2


# Chores


@on_every_database
def test_one_gateway_at_a_time_reconciles(services: Gateway, wire: Wire) -> None:
    other = wire()
    for _ in range(3):
        services.turn()
        other.turn()
        services.clock.advance(TICK_MS)
    assert services.provider.reconciled == 3
    assert other.store.lease_expires_at("reconcile:fake") == services.clock.now_ms() - TICK_MS + CHORE_MS
    services.clock.advance(CHORE_MS)
    other.turn()
    assert services.provider.reconciled == 4


@pytest.mark.parametrize("error", [Unavailable("500"), RuntimeError("a bug")])
def test_reconciling_that_fails_stops_nothing(two: Gateway, error: Exception) -> None:
    two.provider.script("reconcile", error)
    two.add_job()
    assert two.turn() == 1
    assert [provider.reconciled for provider in two.providers.values()] == [1, 1]


def test_a_chore_that_hangs_delays_no_job_and_another_gateway_takes_it_over(services: Gateway, wire: Wire) -> None:
    going_on = threading.Event()
    services.provider.script("reconcile", lambda _: going_on.wait(30) and None)
    services.dispatcher.tick()
    services.add_job()
    services.clock.advance(TICK_MS)
    services.dispatcher.tick()
    eventually(lambda: services.provider.called("submit"))
    assert services.provider.reconciled == 1
    for _ in range(CHORE_MS // TICK_MS):
        services.clock.advance(TICK_MS)
        services.dispatcher.tick()
    other = wire()
    other.turn()
    assert services.provider.reconciled == 2
    going_on.set()
    services.dispatcher.settle()


def test_one_gateway_at_a_time_cleans_up(services: Gateway, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    other, cleaned = wire(), []
    for each in (services, other):
        monkeypatch.setattr(each.dispatcher._janitor, "step", lambda _, each=each: cleaned.append(each))
    for _ in range(3):
        services.turn()
        other.turn()
        services.clock.advance(TICK_MS)
    assert cleaned == [services] * 3
    services.clock.advance(CHORE_MS)
    other.turn()
    assert cleaned[3:] == [other]


def test_a_clean_up_that_fails_stops_nothing(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(services.dispatcher._janitor, "step", fail)
    services.turn()
    services.clock.advance(TICK_MS)
    services.turn()
    assert services.provider.reconciled == 2


# What breaks


@pytest.mark.parametrize("method", ["submit", "poll", "cancel"])
def test_a_bug_of_a_provider_costs_one_lease(services: Gateway, method: str) -> None:
    job = services.add_job() if method == "submit" else services.add_job(attempt=AttemptState.SUBMITTED, tries=1)
    if method == "cancel":
        services.jobs.cancel(job.id, job.key_id)
    services.provider.script(method, RuntimeError("a bug"))
    assert services.turn() == 1
    assert services.turn() == 0
    services.clock.advance(LEASE_MS)
    assert services.turn() == 1
    expected = {"submit": AttemptState.AMBIGUOUS, "poll": AttemptState.SUBMITTED, "cancel": AttemptState.SUPERSEDED}
    assert services.states(job) == [expected[method]]


def test_the_loop_outlives_a_broken_database_and_a_bug(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 0.01)
    broken = [OperationalError("SELECT", {}, Exception("disk I/O error")) for _ in range(3)]
    due = services.store.due

    def sometimes(*asked: Any, **named: Any) -> list[tuple[str, str]]:
        if broken:
            raise broken.pop()
        return due(*asked, **named)

    monkeypatch.setattr(services.store, "due", sometimes)
    services.provider.script("submit", RuntimeError("a bug"))
    both = services.add_job(), services.add_job()
    with running(services):
        eventually(lambda: len(services.provider.called("submit")) == 2, 30)
        eventually(lambda: any(AttemptState.SUBMITTED in services.states(job) for job in both), 30)
    assert not broken


def test_the_loop_takes_a_new_job_at_once_and_stops_on_request(
    services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 3600)  # nothing but the notifier wakes it
    idle, notifier = threading.Event(), services.dispatcher._notifier
    wait = notifier.wait

    def watched(since: int, seconds: float) -> int:
        idle.set()
        return wait(since, seconds)

    monkeypatch.setattr(notifier, "wait", watched)
    with running(services):
        assert idle.wait(30)
        job = services.jobs.create("key_a", REQUEST)
        eventually(lambda: services.states(job) == [AttemptState.SUBMITTED])
    services.jobs.create("key_a", REQUEST)
    assert len(services.provider.called("submit")) == 1

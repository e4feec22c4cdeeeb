"""The dispatcher's loop and its rounds: who takes what, how many at once, chores, and what breaks."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy.exc import OperationalError

from ffmpeg_ops.operation import VIDEO
from gateway.dispatch import loop
from gateway.dispatch.loop import CHORE_MS, LEASE_MS, POOL, POOL_UNTRIED, TICK_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.providers.base import Accepted, Phase, Remote, Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import START_MS, FakeProvider, FixedClock, JobFactory, Wire, on_every_database
from tests.gateway.dispatch.support import BODY, COMPLETED, attempts_of, job_of, states, turn
from tests.outputs import video_key
from tests.servers import eventually
from wire.errors import AssetNotFound

pytestmark = pytest.mark.usefixtures("no_jitter")


@on_every_database
@pytest.mark.parametrize("end", ["accepted", "completed", "failed"])
def test_the_job_that_waited_longest_is_woken_when_a_worker_may_be_free(
    services: Services, provider: FakeProvider, job_factory: JobFactory, end: str
) -> None:
    first = job_factory(waits=3, next_at=START_MS + 9_000)
    second = job_factory(waits=3, next_at=START_MS + 9_000)
    busy = job_factory(attempt=AttemptState.SUBMITTED) if end != "accepted" else job_factory()
    if end == "failed":
        provider.script("poll", Remote(Phase.FAILED, error=AssetNotFound()))
    if end == "completed":
        services.storage.write(video_key(attempts_of(services, busy)[0]), [BODY], len(BODY))
        provider.script("poll", COMPLETED)
    turn(services)
    assert job_of(services, first).next_at == START_MS
    assert job_of(services, second).next_at == START_MS + 9_000


def test_jobs_that_nobody_has_tried_go_before_looks(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    followed = [job_factory(attempt=AttemptState.SUBMITTED) for _ in range(3)]
    new = job_factory()
    assert services.store.due(START_MS, 1) == [new.id]
    assert services.store.due(START_MS, 9) == [new.id, *[job.id for job in followed]]


@on_every_database
def test_two_dispatchers_never_take_the_same_job(
    services: Services, wire: Wire, provider: FakeProvider, job_factory: JobFactory
) -> None:
    made = [job_factory() for _ in range(30)]
    gateways = [services, wire(), wire()]
    barrier = threading.Barrier(3)

    def work(gateway: Services) -> None:
        barrier.wait()
        while turn(gateway):
            pass

    threads = [threading.Thread(target=work, args=[gateway]) for gateway in gateways]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(attempt.job_id for attempt in provider.called("submit")) == sorted(job.id for job in made)


def test_providers_are_called_side_by_side_but_never_too_many_at_once(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    all_in = threading.Barrier(POOL + 1)
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Remote:
        all_in.wait(30)
        go_on.wait(30)
        return Remote(Phase.RUNNING)

    for _ in range(POOL + 5):
        job_factory(attempt=AttemptState.SUBMITTED)
    provider.script("poll", *[slow] * POOL)
    assert services.dispatcher.tick() == POOL
    all_in.wait(30)
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert turn(services) == 5


def test_however_many_jobs_come_others_are_still_looked_at(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    go_on = threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        go_on.wait(30)
        return Accepted("r")

    provider.script("submit", *[slow] * POOL_UNTRIED)
    for _ in range(POOL + 5):
        job_factory()
    assert services.dispatcher.tick() == POOL_UNTRIED
    followed = job_factory(attempt=AttemptState.SUBMITTED)
    assert services.dispatcher.tick() == 1
    eventually(
        lambda: (job_of(services, followed).next_at or 0) > START_MS and not job_of(services, followed).lease_token
    )
    assert services.dispatcher.tick() == 0
    go_on.set()
    services.dispatcher.settle()
    assert turn(services) == POOL + 5 - POOL_UNTRIED


# Chores


@on_every_database
def test_one_gateway_at_a_time_reconciles(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock
) -> None:
    other = wire()
    for _ in range(3):
        turn(services)
        turn(other)
        clock.advance(TICK_MS)
    assert provider.reconciled == 3
    assert other.store.lease_expires_at("reconcile:fake") == clock.now_ms() - TICK_MS + CHORE_MS
    clock.advance(CHORE_MS)
    turn(other)
    assert provider.reconciled == 4


@pytest.mark.parametrize("error", [Unavailable("500"), RuntimeError("a bug")])
def test_reconciling_that_fails_stops_nothing(
    wire: Wire, job_factory: JobFactory, clock: FixedClock, error: Exception
) -> None:
    chain = {name: FakeProvider(name) for name in ("one", "two")}
    services = wire(chain)
    chain["one"].script("reconcile", error)
    job_factory()
    assert turn(services) == 1
    assert [fake.reconciled for fake in chain.values()] == [1, 1]


def test_reconciling_that_takes_long_holds_up_no_job(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    going_on = threading.Event()
    provider.script("reconcile", lambda _: going_on.wait(30) and None)
    services.dispatcher.tick()
    job_factory()
    clock.advance(TICK_MS)
    services.dispatcher.tick()
    eventually(lambda: provider.called("submit"))
    assert provider.reconciled == 1
    going_on.set()
    services.dispatcher.settle()


def test_another_gateway_takes_over_a_chore_that_hangs(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock
) -> None:
    going_on = threading.Event()
    provider.script("reconcile", lambda _: going_on.wait(30) and None)
    services.dispatcher.tick()
    eventually(lambda: provider.reconciled == 1)
    for _ in range(CHORE_MS // TICK_MS):
        clock.advance(TICK_MS)
        services.dispatcher.tick()
    other = wire()
    turn(other)
    assert provider.reconciled == 2
    going_on.set()
    services.dispatcher.settle()


def test_one_gateway_at_a_time_cleans_up(
    services: Services, wire: Wire, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, cleaned = wire(), []
    for each in (services, other):
        monkeypatch.setattr(each.dispatcher._janitor, "step", lambda _, each=each: cleaned.append(each))
    for _ in range(3):
        turn(services)
        turn(other)
        clock.advance(TICK_MS)
    assert cleaned == [services] * 3
    clock.advance(CHORE_MS)
    turn(other)
    assert cleaned[3:] == [other]


def test_a_clean_up_that_fails_stops_nothing(
    services: Services, clock: FixedClock, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(services.dispatcher._janitor, "step", fail)
    turn(services)
    clock.advance(TICK_MS)
    turn(services)
    assert provider.reconciled == 2


# What breaks


@pytest.mark.parametrize("method", ["submit", "poll", "cancel"])
def test_a_bug_of_a_provider_costs_one_lease(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, method: str
) -> None:
    job = job_factory() if method == "submit" else job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    if method == "cancel":
        services.jobs.cancel(job.id, job.key_id)
    provider.script(method, RuntimeError("a bug"))
    assert turn(services) == 1
    assert turn(services) == 0
    clock.advance(LEASE_MS)
    assert turn(services) == 1
    expected = {"submit": AttemptState.AMBIGUOUS, "poll": AttemptState.SUBMITTED, "cancel": AttemptState.SUPERSEDED}
    assert states(services, job) == [expected[method]]


def test_the_loop_outlives_a_broken_database_and_a_bug(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 0.01)
    broken = [OperationalError("SELECT", {}, Exception("disk I/O error")) for _ in range(3)]
    due = services.store.due

    def sometimes(*asked: int) -> list[str]:
        if broken:
            raise broken.pop()
        return due(*asked)

    monkeypatch.setattr(services.store, "due", sometimes)
    provider.script("submit", RuntimeError("a bug"))
    both = job_factory(), job_factory()
    services.dispatcher.start()
    eventually(lambda: len(provider.called("submit")) == 2, 30)
    eventually(lambda: any(AttemptState.SUBMITTED in states(services, job) for job in both), 30)
    services.dispatcher.stop()
    assert not broken


def test_the_loop_takes_a_new_job_at_once_and_stops_when_told(
    services: Services, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "IDLE_S", 3600)  # nothing but the notifier wakes it
    idle, notifier = threading.Event(), services.dispatcher._notifier
    wait = notifier.wait

    def watched(since: int, seconds: float) -> int:
        idle.set()
        return wait(since, seconds)

    monkeypatch.setattr(notifier, "wait", watched)
    services.dispatcher.start()
    assert idle.wait(30)
    job = services.jobs.create("key_a", "caption", {}, VIDEO)
    eventually(lambda: states(services, job) == [AttemptState.SUBMITTED])
    services.dispatcher.stop()
    services.jobs.create("key_a", "caption", {}, VIDEO)
    assert len(provider.called("submit")) == 1

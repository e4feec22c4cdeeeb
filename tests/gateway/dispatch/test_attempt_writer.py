"""What attempts cost, however they end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.db import rental_store
from gateway.db.rental_store import Rentals
from gateway.dispatch import loop
from gateway.domain import ids
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.domain.prices import Price, TrafficPrice
from gateway.domain.rentals import Rental, Stage
from gateway.providers.base import Phase, Remote, Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import CLAIM, FakeProvider, FixedClock, JobFactory, Wire, on_every_database
from tests.gateway.dispatch.support import BODY, COMPLETED, PutOutput, attempts_of, claim, job_of, turn
from wire.envelope import Event
from wire.errors import EncodeFailed

pytestmark = pytest.mark.usefixtures("no_jitter")


@on_every_database
@pytest.mark.parametrize("told_ms", [None, 2_500])
def test_a_completed_attempt_costs_what_its_machine_costs(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory,
    put_output: PutOutput, told_ms: int | None,
) -> None:  # fmt: skip
    job = job_factory(attempt=AttemptState.CLAIMED)
    provider.default["price"] = Price(1_000_000, 300)
    attempt = attempts_of(services, job)[0]
    put_output(attempt.id, BODY)
    assert attempt.claimed_at is not None
    seconds = (clock.now_ms() - attempt.claimed_at) / 1000 if told_ms is None else 2.5
    provider.default["poll"] = replace(COMPLETED, execution_ms=told_ms)
    turn(services)
    after = job_of(services, job)
    assert after.cost_nano == attempts_of(services, job)[0].cost_nano == round(seconds * 1_000_000)
    assert after.stats is not None
    assert after.stats["idle_cost_usd"] == 0.3


@on_every_database
@pytest.mark.parametrize("fetched", [300_000_000, None])
def test_traffic_is_part_of_the_cost_and_counted_for_the_rental(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory, put_output: PutOutput,
    fetched: int | None,
) -> None:  # fmt: skip
    rental = Rental(ids.new("rent", clock.now_ms()), "vast", Stage.BUSY, "label", 0, 0, 0, sent_at=clock.now_ms())
    other = replace(rental, id=ids.new("rent", clock.now_ms()))
    job = job_factory(attempt=AttemptState.CLAIMED)
    (attempt,) = attempts_of(services, job)
    with services.store.transaction() as tx:
        rental_store.insert(tx, rental)
        rental_store.insert(tx, other)
        tx.save_attempt(replace(attempt, remote_id=rental.remote_id_of(attempt.id)))
    put_output(attempt.id, BODY)
    provider.default["price"] = Price(0, traffic=TrafficPrice(down=10_000_000, up=10**9), pull_nano=5)
    assert COMPLETED.result is not None
    stats = {**COMPLETED.result["stats"], **({} if fetched is None else {"fetched_bytes": fetched})}
    provider.default["poll"] = replace(COMPLETED, result={**COMPLETED.result, "stats": stats})
    turn(services)
    traffic = 3_000_000 + len(BODY) if fetched else 1_000_000 + 50_000_000  # of a usual job
    assert job_of(services, job).cost_nano == attempts_of(services, job)[0].cost_nano == traffic + 5
    now = clock.now_ms()
    assert {r.id: r.today_nano(now) for r in Rentals(services.store, "vast").living()} == {
        rental.id: traffic,
        other.id: 0,
    }


def test_a_failed_attempt_counts_as_usual_traffic(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    provider.default["price"] = Price(0, traffic=TrafficPrice(down=10**9, up=10**9))
    job = job_factory(attempt=AttemptState.CLAIMED)
    provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
    turn(services)
    assert attempts_of(services, job)[0].cost_nano == 150_000_000


def test_a_provider_that_never_began_costs_nothing_of_what_a_free_one_did(
    wire: Wire, job_factory: JobFactory, put_output: PutOutput
) -> None:
    dear, free = FakeProvider("dear"), FakeProvider("free")
    services = wire({"dear": dear, "free": free})
    dear.default["price"] = Price(1_000_000, 300)
    dear.script("submit", Unavailable("no credit"))
    job = job_factory()
    turn(services)
    turn(services)
    attempt = attempts_of(services, job)[-1]
    put_output(attempt.id, BODY)
    claim(services, attempt.id)
    assert COMPLETED.result is not None
    services.reports.take(attempt.id, Event("completed", CLAIM, result=COMPLETED.result))
    after = job_of(services, job)
    assert (after.status, attempt.provider, after.cost_nano) == (JobStatus.COMPLETED, "free", None)


def test_failed_and_cancelled_attempts_cost_too(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    provider.default["price"] = Price(1_000_000)
    job = job_factory(attempt=AttemptState.CLAIMED)
    claimed_at = attempts_of(services, job)[0].claimed_at or 0
    clock.advance(3_000)
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert attempts_of(services, job)[0].cost_nano == (clock.now_ms() - claimed_at) * 1_000


@pytest.mark.parametrize(("kind", "cost"), [("submitted", None), ("claimed", 4_000_000)])
def test_what_ran_and_is_given_up_after_a_bug_is_charged_and_counted(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory, kind: str,
    cost: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    provider.default["price"] = Price(1_000_000)
    job = job_factory(attempt=AttemptState(kind))
    attempt = attempts_of(services, job)[0]
    clock.advance(attempt.deadline - clock.now_ms() - 3_999)
    if attempt.claimed_at:
        with services.store.transaction() as tx:
            tx.save_attempt(replace(attempt, claimed_at=clock.now_ms(), heard_at=clock.now_ms()))
    clock.advance(4_000)
    ended: list[Attempt] = []
    monkeypatch.setattr(services.metrics, "attempt_ended", ended.append)
    monkeypatch.setattr(loop, "step", lambda look: 1 / 0)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.cost_nano) == (JobStatus.FAILED, cost)
    assert [(a.id, a.state, a.cost_nano) for a in ended] == [(attempt.id, AttemptState.SUPERSEDED, cost)]


@on_every_database
@pytest.mark.parametrize("way", ["poll", "event", "cancel"])
def test_a_price_is_read_while_no_connection_is_held(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory, way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(services.dispatcher, "_chores", {})  # they have connections of their own
    held: list[int] = []

    def price(_: Attempt) -> Price:
        held.append(services.store._engine.pool.checkedout())  # type: ignore[attr-defined]
        return Price(1_000_000)

    provider.default["price"] = price
    job = job_factory(attempt=AttemptState.CLAIMED)
    attempt = attempts_of(services, job)[0]
    clock.advance(2_000)
    if way == "event":
        services.reports.take(attempt.id, Event("failed", CLAIM, error=EncodeFailed()))
    else:
        provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
        if way == "cancel":
            services.jobs.cancel(job.id, job.key_id)
        turn(services)
    assert held == [0]
    assert attempts_of(services, job)[0].cost_nano == (clock.now_ms() - (attempt.claimed_at or 0)) * 1_000

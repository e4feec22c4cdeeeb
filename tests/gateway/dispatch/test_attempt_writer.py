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
from tests.gateway.conftest import BODY, FakeProvider, Gateway, Wire, on_every_database
from tests.gateway.dispatch.support import COMPLETED
from wire.errors import EncodeFailed


@on_every_database
@pytest.mark.parametrize("execution_ms", [None, 2_500])
def test_a_completed_attempt_costs_what_its_machine_costs(services: Gateway, execution_ms: int | None) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED)
    services.provider.default["price"] = Price(1_000_000, 300)
    attempt = services.attempt(job)
    services.put_output(attempt.id)
    seconds = (services.clock.now_ms() - attempt.claimed_at) / 1000 if execution_ms is None else 2.5
    services.provider.default["poll"] = replace(COMPLETED, execution_ms=execution_ms)
    services.turn()
    after = services.job(job)
    assert after.cost_nano == services.attempt(job).cost_nano == round(seconds * 1_000_000)
    assert after.stats["idle_cost_usd"] == 0.3


@on_every_database
@pytest.mark.parametrize("fetched", [300_000_000, None])
def test_traffic_is_part_of_the_cost_and_counted_for_the_rental(services: Gateway, fetched: int | None) -> None:
    now = services.clock.now_ms()
    rental = Rental(ids.new("rent", now), "vast", Stage.BUSY, "label", 0, 0, 0, sent_at=now)
    other = replace(rental, id=ids.new("rent", now))
    job = services.add_job(attempt=AttemptState.CLAIMED)
    attempt = services.attempt(job)
    with services.store.transaction() as tx:
        rental_store.insert(tx, rental)
        rental_store.insert(tx, other)
        tx.save_attempt(replace(attempt, remote_id=rental.remote_id_of(attempt.id)))
    services.put_output(attempt.id)
    services.provider.default["price"] = Price(0, traffic=TrafficPrice(down=10_000_000, up=10**9), pull_nano=5)
    assert COMPLETED.result is not None
    stats = {**COMPLETED.result["stats"], **({} if fetched is None else {"fetched_bytes": fetched})}
    services.provider.default["poll"] = replace(COMPLETED, result={**COMPLETED.result, "stats": stats})
    services.turn()
    traffic = 3_000_000 + len(BODY) if fetched else 1_000_000 + 50_000_000  # of a usual job
    assert services.job(job).cost_nano == services.attempt(job).cost_nano == traffic + 5
    living = Rentals(services.store, "vast").living()
    assert {r.id: r.today_nano(services.clock.now_ms()) for r in living} == {rental.id: traffic, other.id: 0}


def test_a_failed_attempt_counts_as_usual_traffic(services: Gateway) -> None:
    services.provider.default["price"] = Price(0, traffic=TrafficPrice(down=10**9, up=10**9))
    job = services.add_job(attempt=AttemptState.CLAIMED)
    services.provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
    services.turn()
    assert services.attempt(job).cost_nano == 150_000_000


def test_the_price_of_a_provider_that_never_ran_is_not_charged(wire: Wire) -> None:
    costly, free = FakeProvider("costly"), FakeProvider("free")
    services = wire({"costly": costly, "free": free})
    costly.default["price"] = Price(1_000_000, 300)
    costly.script("submit", Unavailable("no credit"))
    job = services.add_job()
    services.turn()
    services.turn()
    attempt = services.attempt(job)
    services.put_output(attempt.id)
    services.report(attempt.id, "started")
    services.report(attempt.id, "completed", result=COMPLETED.result)
    after = services.job(job)
    assert (after.status, attempt.provider, after.cost_nano) == (JobStatus.COMPLETED, "free", None)


@pytest.mark.parametrize(("kind", "cost"), [("submitted", None), ("claimed", 4_000_000)])
def test_what_ran_and_is_given_up_after_a_bug_is_charged_and_counted(
    services: Gateway, kind: str, cost: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.provider.default["price"] = Price(1_000_000)
    job = services.add_job(attempt=AttemptState(kind))
    attempt = services.attempt(job)
    services.clock.advance(attempt.deadline - services.clock.now_ms() - 3_999)
    if attempt.claimed_at:
        with services.store.transaction() as tx:
            tx.save_attempt(replace(attempt, claimed_at=services.clock.now_ms(), heard_at=services.clock.now_ms()))
    services.clock.advance(4_000)
    ended: list[Attempt] = []
    monkeypatch.setattr(services.metrics, "attempt_ended", ended.append)
    monkeypatch.setattr(loop, "step", lambda look: 1 / 0)
    services.turn()
    after = services.job(job)
    assert (after.status, after.cost_nano) == (JobStatus.FAILED, cost)
    assert [(a.id, a.state, a.cost_nano) for a in ended] == [(attempt.id, AttemptState.SUPERSEDED, cost)]


@on_every_database
@pytest.mark.parametrize("way", ["poll", "event", "cancel"])
def test_a_price_is_read_while_no_connection_is_held(
    services: Gateway, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.dispatcher, "_chores", {})  # they have connections of their own
    held: list[int] = []

    def price(_: Attempt) -> Price:
        held.append(services.store._engine.pool.checkedout())  # type: ignore[attr-defined]
        return Price(1_000_000)

    services.provider.default["price"] = price
    job = services.add_job(attempt=AttemptState.CLAIMED)
    attempt = services.attempt(job)
    services.clock.advance(2_000)
    if way == "event":
        services.report(attempt.id, "failed", error=EncodeFailed())
    else:
        services.provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
        if way == "cancel":
            services.jobs.cancel(job.id, job.key_id)
        services.turn()
    assert held == [0]
    assert services.attempt(job).cost_nano == (services.clock.now_ms() - (attempt.claimed_at or 0)) * 1_000

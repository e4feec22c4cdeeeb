"""After the clock was set back, nothing waits longer than a lease or a time-out lasts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.db import clock_repair
from gateway.db.clock_repair import LONGEST_MS, SKEW_MS
from gateway.dispatch import loop
from gateway.dispatch.loop import CHORE_MS, HEARTBEAT_LEASE, LEASE_MS, TICK_MS
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Phase, Remote
from gateway.webhooks import sender
from tests.gateway.conftest import Gateway, Wire, on_every_database
from wire.envelope import SILENCE_S

HOUR_MS = 3_600_000
BACK = [HOUR_MS, 24 * HOUR_MS]


def restarted_earlier(services: Gateway, wire: Wire, by_ms: int) -> Gateway:
    """Another process of the gateway, `by_ms` before the time at which this one stopped."""
    services.turn()
    services.clock.advance(-by_ms)
    return wire()


def run_for(services: Gateway, ms: int) -> None:
    for _ in range(ms // TICK_MS + 1):
        services.turn()
        services.clock.advance(TICK_MS)


def test_no_lease_lasts_longer() -> None:
    assert max(LEASE_MS, CHORE_MS, loop.HEARTBEAT_MS, sender.LEASE_MS) == LONGEST_MS


@on_every_database
@pytest.mark.parametrize("by_ms", BACK)
def test_a_job_whose_dispatcher_died_goes_on(services: Gateway, wire: Wire, by_ms: int) -> None:
    job = services.add_job()
    with services.store.transaction() as tx:
        tx.lease([job.id], "of the dead", services.clock.now_ms(), services.clock.now_ms() + LEASE_MS)
    later = restarted_earlier(services, wire, by_ms)
    run_for(later, LEASE_MS)
    assert later.states(job) == [AttemptState.SUBMITTED]


@on_every_database
@pytest.mark.parametrize("by_ms", BACK)
def test_the_job_of_a_dead_worker_is_begun_anew(services: Gateway, wire: Wire, by_ms: int) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, tries=1)
    services.provider.script("poll", *[Remote(Phase.RUNNING)] * 100)
    later = restarted_earlier(services, wire, by_ms)
    run_for(later, SILENCE_S * 1000 + LEASE_MS)
    ended = {attempt.error_code: attempt.state for attempt in later.store.attempts(job.id)}
    assert ended["worker_lost"] is AttemptState.FAILED
    assert len(ended) == 2, "and the job has another attempt"


@on_every_database
def test_a_job_that_nobody_takes_waits_for_its_queue_limit(services: Gateway, wire: Wire) -> None:
    job = services.add_job(queue_limit_s=60)
    later = restarted_earlier(services, wire, HOUR_MS)
    later.provider.script("submit", *[RuntimeError("never")] * 100)
    run_for(later, 60_000 + 2 * LEASE_MS)
    assert later.job(job).finished


@on_every_database
def test_chores_and_webhooks_go_on(services: Gateway, wire: Wire) -> None:
    services.turn()
    owed = services.add_job(webhook_url="https://example.com/hook")
    now = services.clock.now_ms()
    with services.store.transaction() as tx:
        tx.save_job(replace(owed, status=JobStatus.COMPLETED, finished_at=now, next_at=None))
        tx.lease_webhooks([owed.id], "of the dead", now, now + sender.LEASE_MS)
    later = restarted_earlier(services, wire, HOUR_MS)
    reconciled = later.provider.reconciled
    later.turn()
    assert later.provider.reconciled == reconciled + 1
    assert later.store.lease_expires_at(HEARTBEAT_LEASE) == later.clock.now_ms() + loop.HEARTBEAT_MS
    run_for(later, sender.LEASE_MS)
    assert later.store.webhooks([owed.id])[owed.id].tries > 0


@on_every_database
def test_a_clock_that_is_right_changes_nothing(services: Gateway) -> None:
    services.add_job(attempt=AttemptState.SUBMITTED, next_at=services.clock.now_ms() + HOUR_MS)
    services.turn()
    for slower_ms in (0, SKEW_MS):  # another gateway's clock
        with services.store.transaction() as tx:
            assert not clock_repair.was_set_back(tx, services.clock.now_ms() - slower_ms)

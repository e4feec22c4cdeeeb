"""Two dispatchers on one database: one is stopped past its lease and woken, or the machine's clock jumps."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.db import tables
from gateway.db.transaction import StaleLease
from gateway.dispatch.context import Look
from gateway.dispatch.loop import LEASE_MS
from gateway.dispatch.step import step
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.errors import AttemptSuperseded
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Refused, Remote, Unavailable
from tests.gateway.conftest import Gateway, Wire
from wire.errors import EncodeFailed, InvalidParams

HOUR_MS = 3_600_000
TRIES = 1_000
SUBMITS = (
    Accepted("late"),
    NotYet("busy", 1.0),
    NoCapacity("full"),
    Unavailable("down"),
    Ambiguous("lost"),
    Refused(InvalidParams("no")),
)
POLLS = (
    Remote(Phase.WAITING),
    Remote(Phase.RUNNING, progress=0.5),
    Remote(Phase.FAILED, error=EncodeFailed()),
    Remote(Phase.GONE),
    NoCapacity("full"),
    Unavailable("down"),
)
CANCELS = (None, Unavailable("down"))
# What is looked at, and which call the look makes.
LOOKS = (
    (None, JobStatus.QUEUED, "submit"),
    (AttemptState.SUBMITTED, JobStatus.QUEUED, "poll"),
    (AttemptState.AMBIGUOUS, JobStatus.QUEUED, "poll"),
    (AttemptState.CLAIMED, JobStatus.RUNNING, "poll"),
    (AttemptState.SUBMITTED, JobStatus.CANCELLED, "cancel"),
)
ANSWERS: dict[str, tuple[Any, ...]] = {"submit": SUBMITS, "poll": POLLS, "cancel": CANCELS}


def rows(services: Gateway, job: Job) -> list[dict[str, Any]]:
    """All that the database holds of the job."""
    with services.store._engine.connect() as connection:
        found = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job.id)).mappings().all()
        query = sa.select(tables.attempts).where(tables.attempts.c.job_id == job.id).order_by(tables.attempts.c.id)
        return [dict(row) for row in [*found, *connection.execute(query).mappings()]]


def leased(services: Gateway, job: Job, token: str, now: int) -> Job:
    return services.store.together(lambda tx: tx.lease([job.id], token, now, now + LEASE_MS))[0]


def over(services: Gateway, job: Job) -> None:
    """Let no dispatcher look at the job again."""
    with services.store.transaction() as tx:
        query = tables.jobs.update().where(tables.jobs.c.id == job.id)
        tx.connection.execute(query.values(next_at=None, lease_token=None, lease_expires_at=None))


@pytest.mark.slow
def test_a_dispatcher_that_wakes_after_its_lease_writes_nothing(services: Gateway, wire: Wire) -> None:
    """The sleeper is stopped inside its call; meanwhile another dispatcher has one or more looks at the job."""
    other, chance, stale = wire(), random.Random(3), 0
    for number in range(TRIES):
        state, status, call = chance.choice(LOOKS)
        job = services.add_job(attempt=state, status=status, tries=0 if state is None else 1)
        answer = chance.choice(ANSWERS[call])
        before: list[dict[str, Any]] = []

        def asleep(_: Attempt, job: Job = job, answer: Any = answer, before: list[Any] = before) -> Any:
            services.clock.advance(chance.choice([LEASE_MS, LEASE_MS, HOUR_MS]))
            assert other.turn() == 1
            for _look in range(chance.randint(0, 2)):
                services.clock.advance(5_000)
                other.turn()
            before += rows(other, job)
            return answer

        services.provider.script(call, asleep)
        token = f"token-{number}"
        try:
            step(Look(services.dispatcher._context, leased(services, job, token, services.clock.now_ms()), token, 0))
        except StaleLease:
            stale += 1
        for was, now in zip(before, rows(services, job), strict=True):
            if isinstance(answer, Accepted) and was.get("remote_id", "") is None:
                was["remote_id"] = now["remote_id"]  # what only the late answer says is kept
            assert now == was, f"try {number}: {state} {call} {answer}"
        over(services, job)
    assert stale == TRIES


@pytest.mark.parametrize("jump", [-HOUR_MS, HOUR_MS])
def test_a_clock_that_jumps_during_a_call_takes_no_lease_away(services: Gateway, jump: int) -> None:
    job = services.add_job()

    def submit(_: Attempt) -> Accepted:
        services.clock.advance(jump)
        return Accepted("r1")

    services.provider.script("submit", submit)
    assert services.turn() == 1
    [attempt] = services.store.attempts(job.id)
    assert (attempt.state, attempt.remote_id) == (AttemptState.SUBMITTED, "r1")
    assert len(services.provider.called("submit")) == 1


def test_a_clock_that_goes_back_delays_a_take_over_and_no_more(services: Gateway, wire: Wire) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED, tries=1)
    leased(services, job, "of one that died", services.clock.now_ms())
    services.clock.advance(-HOUR_MS)
    other = wire()
    assert other.turn() == 0
    services.clock.advance(HOUR_MS + LEASE_MS)
    assert other.turn() == 1
    assert len(services.provider.called("poll")) == 1


def test_a_clock_that_goes_back_stops_no_new_job(services: Gateway) -> None:
    services.turn()
    services.clock.advance(-HOUR_MS)
    services.add_job()
    assert services.turn() == 1
    expires_at = services.store.lease_expires_at("dispatcher")
    assert expires_at is not None and expires_at < services.clock.now_ms() + HOUR_MS, "its heartbeat goes on"


def test_a_clock_that_goes_forward_takes_a_claim_away_early_and_its_worker_must_stop(services: Gateway) -> None:
    services.turn()
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.clock.advance(HOUR_MS)
    services.turn()
    found = services.store.job(job.id)
    assert found is not None and (found.status, found.error_code) == (JobStatus.QUEUED, None)
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, "progress", progress=0.5)
    services.clock.advance(10_000)
    services.turn()
    assert [attempt.state for attempt in services.store.attempts(job.id)] == [
        AttemptState.FAILED,
        AttemptState.SUBMITTED,
    ]


def test_a_clock_that_goes_back_keeps_a_live_claim(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.clock.advance(-HOUR_MS)
    services.report(job.attempt_id, "progress", progress=0.5)
    services.clock.advance(HOUR_MS + 1)
    services.turn()
    found = services.store.job(job.id)
    assert found is not None and found.status is JobStatus.RUNNING

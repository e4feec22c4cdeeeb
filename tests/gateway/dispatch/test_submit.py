"""What the answer to a submit means, and what may happen before it comes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from gateway.dispatch import submit
from gateway.dispatch.limits import AMBIGUOUS_MS
from gateway.dispatch.loop import LEASE_MS
from gateway.dispatch.poll_schedule import FIRST_WITH_EVENTS_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Refused, Remote, Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import CLAIM, START_MS, FakeProvider, FixedClock, JobFactory, Wire, on_every_database
from tests.gateway.dispatch.support import (
    BODY,
    COMPLETED,
    GONE,
    PutOutput,
    attempts_of,
    beat,
    claim,
    follow,
    job_of,
    states,
    turn,
    until_due,
)
from wire.envelope import Event
from wire.errors import InvalidParams

pytestmark = pytest.mark.usefixtures("no_jitter")


@on_every_database
def test_an_accepted_attempt_counts_and_is_looked_at_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()
    provider.script("submit", Accepted("r1"))
    turn(services)
    (attempt,) = attempts_of(services, job)
    after = job_of(services, job)
    assert (attempt.state, attempt.remote_id, attempt.provider) == (AttemptState.SUBMITTED, "r1", "fake")
    assert (after.status, after.tries, after.lease_token, after.next_at) == (
        JobStatus.QUEUED,
        1,
        None,
        START_MS + FIRST_WITH_EVENTS_MS,
    )


def test_not_yet_keeps_the_attempt_and_pauses_longer_each_time(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", *[NotYet("the worker is busy", 2.0)] * 6)
    pauses = []
    for _ in range(6):
        turn(services)
        pauses.append(until_due(services, clock, job))
    assert pauses == [2_000, 3_000, 4_500, 6_750, 10_000, 10_000]
    after = job_of(services, job)
    assert (after.tries, after.status, after.waiting_for) == (0, JobStatus.QUEUED, "the worker is busy")
    turn(services)
    assert states(services, job) == [AttemptState.SUBMITTED]
    assert len({attempt.id for attempt in provider.called("submit")}) == 1
    assert (job_of(services, job).tries, job_of(services, job).waiting_for) == (1, None)


def test_a_refused_job_fails_at_once(services: Services, provider: FakeProvider, job_factory: JobFactory) -> None:
    job = job_factory()
    provider.script("submit", Refused(InvalidParams("duration: too long")))
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.error_message) == (
        JobStatus.FAILED,
        "invalid_params",
        "duration: too long",
    )
    assert states(services, job) == [AttemptState.FAILED]
    assert turn(services) == 0


def test_times_are_stored_as_whole_milliseconds(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.random, "uniform", lambda low, high: 1.000123)
    refused, busy = job_factory(), job_factory()
    provider.script("submit", NoCapacity("full"), NotYet("busy", 0.0123456))
    turn(services)
    assert all(isinstance(job_of(services, job).next_at, int) for job in (refused, busy))


def test_a_provider_that_says_when_it_is_asked_again_is_asked_then(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(waits=9)
    provider.script("submit", Unavailable("it keeps failing", 4.0))
    turn(services)
    assert job_of(services, job).next_at == clock.now_ms() + 4_000


def test_a_claim_that_came_before_the_next_offer_is_kept(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    """The provider said not yet, and took it all the same."""
    job = job_factory()
    provider.script("submit", NotYet("busy", 1))
    turn(services)
    leased: list[str] = []
    take = services.store.attempt

    def claim_between(attempt_id: str) -> Attempt | None:
        found = take(attempt_id)
        if not leased:
            leased.append(attempt_id)
            services.reports.take(attempt_id, Event("started", "claim-of-worker"))
        return found

    services.store.attempt = claim_between  # type: ignore[method-assign]
    clock.advance(20_000)
    turn(services)
    services.store.attempt = take  # type: ignore[method-assign]
    attempt = attempts_of(services, job)[0]
    assert (attempt.state, attempt.claim_id) == (AttemptState.CLAIMED, "claim-of-worker")
    assert len(provider.called("submit")) == 1


# Doubt


def test_an_ambiguous_submit_is_polled_and_counts(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("the answer was lost")).script("poll", Remote(Phase.RUNNING, progress=0.3))
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([AttemptState.AMBIGUOUS], 1)
    follow(services, clock, job, 1)
    after = job_of(services, job)
    assert (states(services, job), after.status, after.progress) == ([AttemptState.SUBMITTED], JobStatus.RUNNING, 0.3)
    assert (len(provider.called("submit")), after.tries) == (1, 1)


def test_a_crash_between_submit_and_its_answer_is_ambiguous_not_lost(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.INTENT, lease_token="of the dead", lease_expires_at=START_MS + 500)
    assert turn(services) == 0
    clock.advance(500)
    provider.script("poll", GONE)
    turn(services)
    assert (states(services, job), provider.calls) == ([AttemptState.AMBIGUOUS], [])
    follow(services, clock, job, 1)
    assert states(services, job) == [AttemptState.FAILED]
    follow(services, clock, job, 1)
    assert states(services, job) == [AttemptState.FAILED, AttemptState.SUBMITTED]
    assert job_of(services, job).tries == 2


def test_what_was_found_out_of_no_attempt_stays_ambiguous(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("the answer was lost"))
    turn(services)
    until_due(services, clock, job)
    turn(services)
    assert states(services, job) == [AttemptState.AMBIGUOUS], "WAITING does not say that it was found"
    clock.advance(AMBIGUOUS_MS + 1)
    turn(services)
    assert attempts_of(services, job)[0].error_code == "submit_unconfirmed"


def test_an_id_that_came_late_ends_the_doubt(
    services: Services, wire: Wire, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job, other = job_factory(), wire()

    def slow(attempt: Attempt) -> Accepted:
        clock.advance(LEASE_MS)
        turn(other)
        return Accepted("told late")

    provider.script("submit", slow)
    turn(services)
    assert states(services, job) == [AttemptState.AMBIGUOUS]
    turn(services)
    assert states(services, job) == [AttemptState.SUBMITTED], "it waits in the queue there, under its id"
    clock.advance(AMBIGUOUS_MS + 1)
    turn(services)
    assert (states(services, job), job_of(services, job).tries) == ([AttemptState.SUBMITTED], 1)


# Races


@on_every_database
def test_a_result_that_comes_after_the_lease_is_dropped(
    services: Services, wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    inside, go_on = threading.Event(), threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        inside.set()
        assert go_on.wait(30)
        return Accepted("from the slow one")

    provider.script("submit", slow)
    services.dispatcher.tick()
    assert inside.wait(30)
    clock.advance(LEASE_MS)
    other = wire()
    turn(other)
    assert states(other, job) == [AttemptState.AMBIGUOUS]
    turn(other)
    before = job_of(other, job), attempts_of(other, job)
    go_on.set()
    services.dispatcher.settle()
    [attempt] = attempts_of(other, job)
    assert (job_of(other, job), replace(attempt, remote_id=None)) == (before[0], before[1][0])
    assert attempt.remote_id == "from the slow one", "what only the late answer told is kept"
    assert len(provider.called("submit")) == 1


@on_every_database
@pytest.mark.parametrize("answer", [Accepted("r1"), Ambiguous("lost"), NotYet("busy", 2.0)])
def test_a_claim_that_comes_before_the_answer_stays(
    services: Services, provider: FakeProvider, job_factory: JobFactory, answer: Any
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Any:
        claim(services, attempt.id)
        beat(services, attempt.id, 0.4)
        return answer

    provider.script("submit", submit)
    turn(services)
    (attempt,) = attempts_of(services, job)
    after = job_of(services, job)
    assert (attempt.state, attempt.claim_id, attempt.sent_at) == (AttemptState.CLAIMED, CLAIM, START_MS)
    assert (after.status, after.progress, after.tries, after.waiting_for) == (JobStatus.RUNNING, 0.4, 1, None)


@on_every_database
def test_an_end_that_comes_before_the_answer_stays(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Accepted:
        claim(services, attempt.id)
        put_output(attempt.id, BODY)
        services.reports.take(attempt.id, Event("completed", CLAIM, result=COMPLETED.result))
        return Accepted("r1")

    provider.script("submit", submit)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (JobStatus.COMPLETED, [AttemptState.DONE])
    assert turn(services) == 0


@on_every_database
def test_a_job_cancelled_during_its_submit_is_taken_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()

    def submit(attempt: Attempt) -> Accepted:
        services.jobs.cancel(job.id, job.key_id)
        return Accepted("r1")

    provider.script("submit", submit)
    turn(services)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (JobStatus.CANCELLED, [AttemptState.SUPERSEDED])
    # at once, and under the id that only the late answer told
    assert provider.called("cancel")[0].remote_id == "r1"

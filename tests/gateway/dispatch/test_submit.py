"""What the result of a submit means, and what may happen before it comes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import structlog

from gateway.dispatch import submit
from gateway.dispatch.limits import AMBIGUOUS_MS
from gateway.dispatch.loop import LEASE_MS
from gateway.dispatch.poll_schedule import FIRST_WITH_EVENTS_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Accepted, Ambiguous, NoCapacity, NotYet, Phase, Remote, Unavailable
from tests.gateway.conftest import CLAIM, START_MS, Gateway, Wire, on_every_database
from tests.gateway.dispatch.support import COMPLETED, GONE
from wire.envelope import Event


@on_every_database
def test_an_accepted_attempt_counts_and_is_looked_at_again(services: Gateway) -> None:
    job = services.add_job()
    services.provider.script("submit", Accepted("r1"))
    services.turn()
    (attempt,) = services.store.attempts(job.id)
    after = services.job(job)
    assert (attempt.state, attempt.remote_id, attempt.provider) == (AttemptState.SUBMITTED, "r1", "fake")
    assert (after.status, after.tries, after.lease_token, after.next_at) == (
        JobStatus.QUEUED,
        1,
        None,
        START_MS + FIRST_WITH_EVENTS_MS,
    )


def test_not_yet_keeps_the_attempt_and_pauses_longer_each_time(services: Gateway) -> None:
    job = services.add_job()
    services.provider.script("submit", *[NotYet("the worker is busy", 2.0)] * 6)
    pauses = []
    for _ in range(6):
        services.turn()
        pauses.append(services.until_due(job))
    assert pauses == [2_000, 3_000, 4_500, 6_750, 10_000, 10_000]
    after = services.job(job)
    assert (after.tries, after.status, after.waiting_for) == (0, JobStatus.QUEUED, "the worker is busy")
    services.turn()
    assert services.states(job) == [AttemptState.SUBMITTED]
    assert len({attempt.id for attempt in services.provider.called("submit")}) == 1
    assert (services.job(job).tries, services.job(job).waiting_for) == (1, None)


def test_times_are_stored_as_whole_milliseconds(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit.random, "uniform", lambda low, high: 1.000123)
    refused, busy = services.add_job(), services.add_job()
    services.provider.script("submit", NoCapacity("full"), NotYet("busy", 0.0123456))
    services.turn()
    assert all(isinstance(services.job(job).next_at, int) for job in (refused, busy))


def test_a_provider_that_says_when_it_is_asked_again_is_asked_then(services: Gateway) -> None:
    job = services.add_job(waits=9)
    services.provider.script("submit", Unavailable("it keeps failing", 4.0))
    services.turn()
    assert services.job(job).next_at == services.clock.now_ms() + 4_000


def test_a_claim_that_came_before_the_next_offer_is_kept(services: Gateway) -> None:
    """The provider said not yet, and took it all the same."""
    job = services.add_job()
    services.provider.script("submit", NotYet("busy", 1))
    services.turn()
    leased: list[str] = []
    take = services.store.attempt

    def claim_between(attempt_id: str) -> Attempt | None:
        found = take(attempt_id)
        if not leased:
            leased.append(attempt_id)
            services.reports.take(attempt_id, Event("started", "claim-of-worker"))
        return found

    services.store.attempt = claim_between  # type: ignore[method-assign]
    services.clock.advance(20_000)
    services.turn()
    services.store.attempt = take  # type: ignore[method-assign]
    attempt = services.attempt(job)
    assert (attempt.state, attempt.claim_id) == (AttemptState.CLAIMED, "claim-of-worker")
    assert len(services.provider.called("submit")) == 1


# Doubt


def test_an_ambiguous_submit_is_polled_and_counts(services: Gateway) -> None:
    job = services.add_job()
    services.provider.script("submit", Ambiguous("the answer was lost")).script(
        "poll", Remote(Phase.RUNNING, progress=0.3)
    )
    services.turn()
    assert (services.states(job), services.job(job).tries) == ([AttemptState.AMBIGUOUS], 1)
    services.follow(job, 1)
    after = services.job(job)
    assert (services.states(job), after.status, after.progress) == ([AttemptState.SUBMITTED], JobStatus.RUNNING, 0.3)
    assert (len(services.provider.called("submit")), after.tries) == (1, 1)


def test_a_crash_between_submit_and_its_answer_is_ambiguous_not_lost(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.INTENT, lease_token="of the dead", lease_expires_at=START_MS + 500)
    assert services.turn() == 0
    services.clock.advance(500)
    services.provider.script("poll", GONE)
    services.turn()
    assert (services.states(job), services.provider.calls) == ([AttemptState.AMBIGUOUS], [])
    services.follow(job, 1)
    assert services.states(job) == [AttemptState.FAILED]
    services.follow(job, 1)
    assert services.states(job) == [AttemptState.FAILED, AttemptState.SUBMITTED]
    assert services.job(job).tries == 2


def test_an_id_that_came_late_ends_the_doubt(services: Gateway, wire: Wire) -> None:
    job, other = services.add_job(), wire()

    def slow(attempt: Attempt) -> Accepted:
        services.clock.advance(LEASE_MS)
        other.turn()
        return Accepted("late")

    services.provider.script("submit", slow)
    services.turn()
    assert services.states(job) == [AttemptState.AMBIGUOUS]
    services.turn()
    assert services.states(job) == [AttemptState.SUBMITTED], "it waits in the queue there, under its id"
    services.clock.advance(AMBIGUOUS_MS + 1)
    services.turn()
    assert (services.states(job), services.job(job).tries) == ([AttemptState.SUBMITTED], 1)


# Races


@on_every_database
def test_a_result_that_comes_after_the_lease_is_dropped(services: Gateway, wire: Wire) -> None:
    job = services.add_job()
    inside, go_on = threading.Event(), threading.Event()

    def slow(attempt: Attempt) -> Accepted:
        inside.set()
        assert go_on.wait(30)
        return Accepted("from the slow one")

    services.provider.script("submit", slow)
    services.dispatcher.tick()
    assert inside.wait(30)
    services.clock.advance(LEASE_MS)
    other = wire()
    other.turn()
    assert other.states(job) == [AttemptState.AMBIGUOUS]
    other.turn()
    before = other.job(job), other.store.attempts(job.id)
    go_on.set()
    services.dispatcher.settle()
    [attempt] = other.store.attempts(job.id)
    assert (other.job(job), replace(attempt, remote_id=None)) == (before[0], before[1][0])
    assert attempt.remote_id == "from the slow one", "what only the late answer told is kept"
    assert len(services.provider.called("submit")) == 1


@on_every_database
@pytest.mark.parametrize("answer", [Accepted("r1"), Ambiguous("lost"), NotYet("busy", 2.0)])
def test_a_claim_that_comes_before_the_answer_stays(services: Gateway, answer: Any) -> None:
    job = services.add_job()

    def submit(attempt: Attempt) -> Any:
        services.report(attempt.id, "started")
        services.report(attempt.id, "progress", progress=0.4)
        return answer

    services.provider.script("submit", submit)
    services.turn()
    (attempt,) = services.store.attempts(job.id)
    after = services.job(job)
    assert (attempt.state, attempt.claim_id, attempt.sent_at) == (AttemptState.CLAIMED, CLAIM, START_MS)
    assert (after.status, after.progress, after.tries, after.waiting_for) == (JobStatus.RUNNING, 0.4, 1, None)


@on_every_database
def test_an_end_that_comes_before_the_answer_stays(services: Gateway) -> None:
    job = services.add_job()

    def submit(attempt: Attempt) -> Accepted:
        services.report(attempt.id, "started")
        services.put_output(attempt.id)
        services.report(attempt.id, "completed", result=COMPLETED.result)
        return Accepted("r1")

    services.provider.script("submit", submit)
    services.turn()
    assert (services.job(job).status, services.states(job)) == (JobStatus.COMPLETED, [AttemptState.DONE])
    assert services.turn() == 0


@on_every_database
def test_a_job_cancelled_during_its_submit_is_taken_back(services: Gateway) -> None:
    job = services.add_job()

    def submit(attempt: Attempt) -> Accepted:
        services.jobs.cancel(job.id, job.key_id)
        return Accepted("r1")

    services.provider.script("submit", submit)
    services.turn()
    services.turn()
    assert (services.job(job).status, services.states(job)) == (JobStatus.CANCELLED, [AttemptState.SUPERSEDED])
    # at once, and under the id of the late answer
    assert services.provider.called("cancel")[0].remote_id == "r1"


@on_every_database
@pytest.mark.parametrize("again", [False, True])
def test_a_job_cancelled_just_before_its_submit_is_not_submitted_and_is_no_error(
    services: Gateway, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = services.add_job(attempt=AttemptState.INTENT if again else None)
    if again:  # its provider has definitely not accepted it
        unsent = replace(services.attempt(job), sent_at=None)
        services.store.together(lambda tx: tx.save_attempt(unsent))

    def cancel(*_: object) -> bool:
        services.jobs.cancel(job.id, job.key_id)
        return False

    monkeypatch.setattr(services.dispatcher._context.quotas, "day_is_spent", cancel)
    with structlog.testing.capture_logs() as logged:
        services.turn()
        services.clock.advance(LEASE_MS)
        services.turn()
    assert services.provider.called("submit") == []
    assert services.job(job).status is JobStatus.CANCELLED
    assert services.job(job).next_at is None
    assert not [line for line in logged if line["log_level"] == "error"]

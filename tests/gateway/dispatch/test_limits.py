"""What ends because it lasts too long: silent claims, queue limits, deadlines, doubt."""

from __future__ import annotations

import pytest

from gateway.dispatch.limits import AMBIGUOUS_MS, SILENCE_MS, UNCLAIMED_MS
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import MARGIN_MS, JobStatus
from gateway.errors import AttemptSuperseded
from gateway.providers.base import Ambiguous, NotYet, Phase, Remote, Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import START_MS, FakeProvider, FixedClock, JobFactory, Wire, on_every_database
from tests.gateway.dispatch.support import attempts_of, beat, claim, job_of, states, turn, until_due

pytestmark = pytest.mark.usefixtures("no_jitter")


def test_waiting_ends_at_the_queue_limit_with_the_last_reason(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(queue_limit_s=20)
    provider.default["submit"] = NotYet("the worker is not running", 2.0)
    while not job_of(services, job).finished:
        turn(services)
        if not job_of(services, job).finished:
            until_due(services, clock, job)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.tries, after.next_at) == (JobStatus.FAILED, "queue_timeout", 0, None)
    assert "the worker is not running" in (after.error_message or "")
    assert "20 s" in (after.error_message or "")
    assert states(services, job) == [AttemptState.SUPERSEDED]
    assert 20_000 <= clock.now_ms() - START_MS <= 30_000


def test_a_job_that_waits_there_past_its_queue_limit_is_taken_back(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, queue_limit_s=60)
    provider.default["poll"] = Remote(Phase.WAITING, reason="no GPU is free")
    turn(services)
    clock.advance(60_001)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code) == (JobStatus.FAILED, "queue_timeout")
    assert after.error_message == "No worker took the job within 60 s. The last reason: no GPU is free."
    assert len(provider.called("cancel")) == 1


@on_every_database
def test_a_silent_claim_is_dead_and_the_job_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    turn(services)
    claim(services, job_of(services, job).attempt_id)
    clock.advance(SILENCE_MS)
    turn(services)
    assert states(services, job) == [AttemptState.CLAIMED]
    clock.advance(10_000)
    turn(services)
    (attempt,) = attempts_of(services, job)
    assert (attempt.state, attempt.error_code) == (AttemptState.FAILED, "worker_lost")
    assert [a.id for a in provider.called("cancel")] == [attempt.id]
    assert job_of(services, job).status is JobStatus.QUEUED
    with pytest.raises(AttemptSuperseded):
        beat(services, attempt.id)


def test_a_claim_that_reports_is_never_taken_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    turn(services)
    claim(services, job_of(services, job).attempt_id)
    for _ in range(20):
        clock.advance(SILENCE_MS - 1)
        beat(services, job_of(services, job).attempt_id)
        turn(services)
    assert (states(services, job), provider.called("cancel")) == ([AttemptState.CLAIMED], [])


def test_three_silent_claims_fail_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    while not job_of(services, job).finished:
        turn(services)
        claim(services, job_of(services, job).attempt_id)
        clock.advance(SILENCE_MS + 1)
        turn(services)
        if not job_of(services, job).finished:
            until_due(services, clock, job)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.tries) == (JobStatus.FAILED, "worker_lost", 3)
    assert states(services, job) == [AttemptState.FAILED] * 3


def test_a_dead_claim_is_given_up_even_when_the_provider_cannot_be_told(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    provider.script("cancel", Unavailable("500"))
    turn(services)
    clock.advance(SILENCE_MS + 1)
    turn(services)
    assert states(services, job) == [AttemptState.FAILED]


def test_silence_does_not_count_while_no_gateway_ran(
    wire: Wire, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    clock.advance(10 * SILENCE_MS)
    fresh = wire()
    turn(fresh)
    assert states(fresh, job) == [AttemptState.CLAIMED]
    clock.advance(SILENCE_MS)
    turn(fresh)
    assert states(fresh, job) == [AttemptState.CLAIMED]
    clock.advance(10_000)
    turn(fresh)
    assert states(fresh, job) == [AttemptState.FAILED]


def test_a_claim_that_runs_past_its_time_is_stopped_for_good(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1, timeout_s=60)
    clock.advance(60_000 + MARGIN_MS + 1)
    beat(services, job.attempt_id)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, len(provider.called("cancel"))) == (JobStatus.FAILED, "job_timeout", 1)


def test_what_nobody_claimed_until_its_deadline_fails(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    clock.advance(attempts_of(services, job)[0].deadline - START_MS + 1)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, len(provider.called("cancel"))) == (JobStatus.FAILED, "queue_timeout", 1)


def test_a_worker_that_takes_a_job_and_never_begins_it_is_lost(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    provider.default["poll"] = Remote(Phase.RUNNING)
    turn(services)
    clock.advance(UNCLAIMED_MS + 1)
    turn(services)
    assert states(services, job) == [AttemptState.FAILED]
    assert attempts_of(services, job)[0].error_code == "claim_timeout"
    assert len(provider.called("cancel")) == 1


def test_an_ambiguous_attempt_that_nobody_knows_is_given_up_and_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.script("submit", Ambiguous("cut"))
    turn(services)
    clock.advance(AMBIGUOUS_MS + 3_000)
    turn(services)
    assert states(services, job) == [AttemptState.FAILED]
    assert attempts_of(services, job)[0].error_code == "submit_unconfirmed"
    assert not job_of(services, job).finished


def test_a_claim_that_comes_while_the_doubt_is_given_up_is_kept(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.AMBIGUOUS, tries=1)
    clock.advance(AMBIGUOUS_MS + 1)
    provider.script("cancel", lambda attempt: claim(services, attempt.id))
    turn(services)
    assert (states(services, job), job_of(services, job).status) == ([AttemptState.CLAIMED], JobStatus.RUNNING)
    beat(services, job.attempt_id)

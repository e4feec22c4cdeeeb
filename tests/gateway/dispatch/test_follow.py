"""What a poll tells: progress, ends, and nothing."""

from __future__ import annotations

import pytest

from gateway.dispatch import finish, poll_schedule
from gateway.dispatch.limits import UNCLAIMED_MS
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import NoCapacity, Phase, Remote, Unavailable
from gateway.storage import StorageUnavailable
from gateway.wiring import Services
from tests.gateway.conftest import START_MS, FakeProvider, FixedClock, JobFactory, Wire
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
from wire.envelope import ErrorSchema
from wire.errors import AssetNotFound, EncodeFailed, JobTimeout, Superseded

pytestmark = pytest.mark.usefixtures("no_jitter")


def test_a_provider_that_cannot_be_polled_is_asked_again_later(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    provider.script("poll", Unavailable("500"), Unavailable("500"))
    turn(services)
    follow(services, clock, job, 2)
    assert (states(services, job), len(provider.called("poll"))) == ([AttemptState.SUBMITTED], 3)


def test_polled_progress_goes_on_and_never_back(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    provider.script("poll", *[Remote(Phase.RUNNING, progress=progress) for progress in (0.2, 0.6, 0.4)])
    turn(services)
    follow(services, clock, job, 2)
    assert job_of(services, job).progress == 0.6


def test_claimed_attempts_too_share_the_looks_of_a_second(
    services: Services, provider: FakeProvider, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_schedule, "POLLS_PER_S", 2)
    provider.default["poll"] = Remote(Phase.RUNNING, progress=0.1)
    claimed = [job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1) for _ in range(5)]
    turn(services)
    pauses = sorted((job_of(services, job).next_at or 0) - START_MS for job in claimed)
    assert pauses == [10_000, 10_000, 11_000, 11_000, 12_000]


def test_why_it_waits_is_told_until_it_runs(
    services: Services, provider: FakeProvider, clock: FixedClock, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    provider.script("poll", Remote(Phase.WAITING, reason="no GPU is free"), Remote(Phase.RUNNING, progress=0.5))
    turn(services)
    assert job_of(services, job).waiting_for == "no GPU is free"
    until_due(services, clock, job)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.waiting_for, after.progress) == (JobStatus.RUNNING, None, 0.5)


def test_without_events_nobody_claims_and_the_work_goes_on(
    wire: Wire, clock: FixedClock, job_factory: JobFactory
) -> None:
    provider = FakeProvider()
    services = wire({"fake": provider}, worker_events=False)
    job = job_factory(attempt=AttemptState.SUBMITTED)
    provider.default["poll"] = Remote(Phase.RUNNING, progress=0.25)
    turn(services)
    clock.advance(UNCLAIMED_MS + 1)
    turn(services)
    assert states(services, job) == [AttemptState.SUBMITTED]
    assert job_of(services, job).progress == 0.25


def test_a_superseded_poll_never_ends_an_attempt_whose_claim_is_alive(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=Superseded()))
    turn(services)
    assert states(services, job) == [AttemptState.CLAIMED]
    beat(services, job.attempt_id)


@pytest.mark.parametrize("answer", [Remote(Phase.FAILED, error=Superseded()), GONE])
def test_a_claim_that_comes_during_the_poll_is_newer_than_its_answer(
    services: Services, provider: FakeProvider, job_factory: JobFactory, answer: Remote
) -> None:
    job = job_factory(attempt=AttemptState.AMBIGUOUS, tries=1)

    def poll(attempt: Attempt) -> Remote:
        claim(services, attempt.id)
        return answer

    provider.script("poll", poll)
    turn(services)
    after = job_of(services, job)
    assert (states(services, job), after.status) == ([AttemptState.CLAIMED], JobStatus.RUNNING)
    assert (after.lease_token, after.next_at) == (None, START_MS + 10_000)


# Ends that only a poll tells


def test_a_completed_poll_with_its_output_completes_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    put_output(job.attempt_id or "", BODY)
    provider.script("poll", COMPLETED)
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.progress, after.next_at) == (JobStatus.COMPLETED, 1.0, None)
    assert after.stats == {"size_bytes": len(BODY), "duration_s": 2.0, "provider": "fake"}
    assert states(services, job) == [AttemptState.DONE]


@pytest.mark.parametrize("stored", [None, BODY[:-1], BODY + b"!", b""])
def test_a_completed_poll_without_the_whole_output_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, put_output: PutOutput, stored: bytes | None
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    if stored is not None:
        put_output(job.attempt_id or "", stored)
    provider.script("poll", COMPLETED)
    turn(services)
    assert attempts_of(services, job)[0].error_code == "output_missing"
    assert job_of(services, job).status is JobStatus.QUEUED


def unreachable(key: str) -> int:
    raise StorageUnavailable("S3 could not be reached")


def test_a_storage_that_cannot_be_asked_is_asked_again(
    services: Services,
    provider: FakeProvider,
    job_factory: JobFactory,
    put_output: PutOutput,
    clock: FixedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = job_factory()
    turn(services)
    put_output(attempts_of(services, job)[0].id, BODY)
    provider.default["poll"] = COMPLETED
    with monkeypatch.context() as patch:
        patch.setattr(services.storage, "size", unreachable)
        clock.advance(60_000)
        turn(services)
        after = job_of(services, job)
        assert (after.next_at, after.lease_token) == (clock.now_ms() + finish.LATER_MS, None)
    clock.advance(finish.LATER_MS)
    turn(services)
    assert (job_of(services, job).status, states(services, job)) == (JobStatus.COMPLETED, [AttemptState.DONE])


def test_a_failed_poll_with_the_jobs_own_fault_fails_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=AssetNotFound("video: 404")))
    turn(services)
    after = job_of(services, job)
    assert (after.status, after.error_code, after.error_message) == (JobStatus.FAILED, "asset_not_found", "video: 404")


def test_failed_polls_are_tried_again_twice(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory()
    provider.default["poll"] = Remote(Phase.FAILED, error=EncodeFailed())
    turn(services)
    follow(services, clock, job, 5)
    assert (job_of(services, job).error_code, states(services, job)) == ("encode_failed", [AttemptState.FAILED] * 3)


def test_a_superseded_poll_of_an_unclaimed_attempt_is_a_lost_worker(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    provider.script("poll", Remote(Phase.FAILED, error=Superseded()))
    turn(services)
    assert attempts_of(services, job)[0].error_code == "worker_lost"
    assert job_of(services, job).status is JobStatus.QUEUED


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED])
def test_an_end_without_its_details_is_tried_again(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock, phase: Phase
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    provider.default["poll"] = Remote(phase)
    clock.advance(3_000)
    turn(services)
    assert states(services, job) == [AttemptState.FAILED]
    assert job_of(services, job).status is JobStatus.QUEUED


def test_what_never_began_there_does_not_count(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    provider.script("poll", NoCapacity("nothing took it"))
    clock.advance(3_000)
    turn(services)
    assert (job_of(services, job).tries, states(services, job)) == (0, [AttemptState.FAILED])


def test_a_time_out_there_of_what_nobody_claimed_is_no_fault_of_the_job(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    lost = job_factory(attempt=AttemptState.SUBMITTED)
    provider.default["poll"] = Remote(Phase.FAILED, error=JobTimeout())
    turn(services)
    assert (job_of(services, lost).status, attempts_of(services, lost)[0].error_code) == (
        JobStatus.QUEUED,
        "claim_timeout",
    )
    slow = job_factory(attempt=AttemptState.CLAIMED)
    turn(services)
    assert (job_of(services, slow).status, job_of(services, slow).error_code) == (JobStatus.FAILED, "job_timeout")


def test_a_message_that_no_database_takes_ends_the_attempt_all_the_same(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    turned_down, failed = job_factory(), job_factory(attempt=AttemptState.SUBMITTED)
    provider.script("submit", Unavailable("half: \ud800, none: \0"))
    error = ErrorSchema().load({"code": "worker_error", "message": "half: \ud800, none: \0", "retryable": True})
    provider.script("poll", Remote(Phase.FAILED, error=error))
    clock.advance(3_000)
    turn(services)
    for job in (turned_down, failed):
        (attempt,) = attempts_of(services, job)
        assert (attempt.state, attempt.error_message) == (AttemptState.FAILED, "half: ?, none: ?")

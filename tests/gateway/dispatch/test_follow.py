"""What a poll reports: progress, the reason of a wait, ends."""

from __future__ import annotations

import pytest

from gateway.dispatch import poll_schedule
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Phase, Remote, Unavailable
from tests.gateway.conftest import BODY, START_MS, Gateway
from tests.gateway.dispatch.support import COMPLETED, GONE, RUNNING, WAITING
from wire.envelope import ErrorSchema
from wire.errors import Superseded


def test_claimed_attempts_too_share_the_looks_of_a_second(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_schedule, "POLLS_PER_S", 2)
    services.provider.default["poll"] = Remote(Phase.RUNNING, progress=0.1)
    claimed = [services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1) for _ in range(5)]
    services.turn()
    pauses = sorted((services.job(job).next_at or 0) - START_MS for job in claimed)
    assert pauses == [10_000, 10_000, 11_000, 11_000, 12_000]


def test_the_reason_of_a_wait_is_shown_until_the_job_runs(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED)
    services.provider.script("poll", WAITING, RUNNING)
    services.turn()
    assert services.job(job).waiting_for == "no GPU is free"
    services.until_due(job)
    services.turn()
    after = services.job(job)
    assert (after.status, after.waiting_for, after.progress) == (JobStatus.RUNNING, None, 0.5)


def test_a_superseded_poll_never_ends_an_attempt_whose_claim_is_alive(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.provider.script("poll", Remote(Phase.FAILED, error=Superseded()))
    services.turn()
    assert services.states(job) == [AttemptState.CLAIMED]
    services.report(job.attempt_id, "progress", progress=0.5)


@pytest.mark.parametrize("answer", [Remote(Phase.FAILED, error=Superseded()), GONE])
def test_a_claim_that_comes_during_the_poll_is_newer_than_its_answer(services: Gateway, answer: Remote) -> None:
    job = services.add_job(attempt=AttemptState.AMBIGUOUS, tries=1)

    def poll(attempt: Attempt) -> Remote:
        services.report(attempt.id, "started")
        return answer

    services.provider.script("poll", poll)
    services.turn()
    after = services.job(job)
    assert (services.states(job), after.status) == ([AttemptState.CLAIMED], JobStatus.RUNNING)
    assert (after.lease_token, after.next_at) == (None, START_MS + 10_000)


# Ends that only a poll reports


def test_a_completed_poll_with_its_output_completes_the_job(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED, tries=1)
    services.put_output(job.attempt_id)
    services.provider.script("poll", COMPLETED)
    services.turn()
    after = services.job(job)
    assert (after.status, after.progress, after.next_at) == (JobStatus.COMPLETED, 1.0, None)
    assert after.stats == {"size_bytes": len(BODY), "duration_s": 2.0, "provider": "fake"}
    assert services.states(job) == [AttemptState.DONE]


def test_a_message_that_no_database_stores_still_ends_the_attempt(services: Gateway) -> None:
    turned_down, failed = services.add_job(), services.add_job(attempt=AttemptState.SUBMITTED)
    services.provider.script("submit", Unavailable("half: \ud800, none: \0"))
    error = ErrorSchema().load({"code": "worker_error", "message": "half: \ud800, none: \0", "retryable": True})
    services.provider.script("poll", Remote(Phase.FAILED, error=error))
    services.clock.advance(3_000)
    services.turn()
    for job in (turned_down, failed):
        (attempt,) = services.store.attempts(job.id)
        assert (attempt.state, attempt.error_message) == (AttemptState.FAILED, "half: ?, none: ?")

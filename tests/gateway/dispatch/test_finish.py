"""Taking cancelled jobs back from their providers."""

from __future__ import annotations

import pytest

from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Unavailable
from tests.gateway.conftest import START_MS, FakeProvider, Gateway, Wire


@pytest.mark.parametrize(
    "state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS]
)
def test_a_cancelled_job_is_taken_back_from_its_provider(services: Gateway, state: AttemptState) -> None:
    job = services.add_job(attempt=state)
    services.jobs.cancel(job.id, job.key_id)
    services.turn()
    assert [attempt.id for attempt in services.provider.called("cancel")] == [job.attempt_id]
    assert (services.states(job), services.job(job).next_at) == ([AttemptState.SUPERSEDED], None)
    assert services.job(job).status is JobStatus.CANCELLED


def test_a_job_cancelled_before_its_submit_calls_no_provider(services: Gateway) -> None:
    job = services.add_job()
    services.jobs.cancel(job.id, job.key_id)
    services.turn()
    assert (services.provider.calls, services.job(job).next_at) == ([], None)


def test_cancelling_is_tried_again_until_the_provider_has_heard(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    services.provider.script("cancel", Unavailable("500"), Unavailable("500"))
    services.turn()
    services.follow(job, 2)
    assert len(services.provider.called("cancel")) == 3
    assert (services.states(job), services.job(job).next_at) == ([AttemptState.SUPERSEDED], None)


@pytest.mark.parametrize("state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED])
def test_a_job_of_a_provider_that_was_taken_out_still_ends(services: Gateway, wire: Wire, state: AttemptState) -> None:
    job = services.add_job(attempt=state, tries=1, queue_limit_s=60, timeout_s=60)
    services = wire({"other": FakeProvider("other")})
    for _ in range(2000):
        if services.job(job).attempt_id != job.attempt_id or services.job(job).finished:
            return
        services.until_due(job)
        services.turn()
    pytest.fail("the job never left the provider")


def test_a_cancelled_job_of_a_provider_that_was_taken_out_is_let_go(wire: Wire, services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    services.clock.advance(services.attempt(job).deadline - START_MS)
    wire({"other": FakeProvider("other")}).turn()
    assert services.states(job) == [AttemptState.SUPERSEDED]

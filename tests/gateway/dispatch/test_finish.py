"""Taking cancelled jobs back from their providers."""

from __future__ import annotations

import pytest

from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.providers.base import Unavailable
from gateway.wiring import Services
from tests.gateway.conftest import START_MS, FakeProvider, FixedClock, JobFactory, Wire
from tests.gateway.dispatch.support import attempts_of, follow, job_of, states, turn, until_due

pytestmark = pytest.mark.usefixtures("no_jitter")


@pytest.mark.parametrize(
    "state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS]
)
def test_a_cancelled_job_is_taken_back_from_its_provider(
    services: Services, provider: FakeProvider, job_factory: JobFactory, state: AttemptState
) -> None:
    job = job_factory(attempt=state)
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert [attempt.id for attempt in provider.called("cancel")] == [job.attempt_id]
    assert (states(services, job), job_of(services, job).next_at) == ([AttemptState.SUPERSEDED], None)
    assert job_of(services, job).status is JobStatus.CANCELLED


def test_a_job_cancelled_before_anything_was_sent_asks_nobody(
    services: Services, provider: FakeProvider, job_factory: JobFactory
) -> None:
    job = job_factory()
    services.jobs.cancel(job.id, job.key_id)
    turn(services)
    assert (provider.calls, job_of(services, job).next_at) == ([], None)


def test_cancelling_is_tried_again_until_the_provider_has_heard(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    provider.script("cancel", Unavailable("500"), Unavailable("500"))
    turn(services)
    follow(services, clock, job, 2)
    assert len(provider.called("cancel")) == 3
    assert (states(services, job), job_of(services, job).next_at) == ([AttemptState.SUPERSEDED], None)


def test_cancelling_is_given_up_after_the_deadline(
    services: Services, provider: FakeProvider, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    provider.default["cancel"] = Unavailable("500")
    clock.advance(attempts_of(services, job)[0].deadline - START_MS)
    turn(services)
    assert (states(services, job), job_of(services, job).next_at) == ([AttemptState.SUPERSEDED], None)


@pytest.mark.parametrize("state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED])
def test_a_job_of_a_provider_that_was_taken_out_still_ends(
    wire: Wire, job_factory: JobFactory, clock: FixedClock, state: AttemptState
) -> None:
    job = job_factory(attempt=state, tries=1, queue_limit_s=60, timeout_s=60)
    services = wire({"other": FakeProvider("other")})
    for _ in range(2000):
        if job_of(services, job).attempt_id != job.attempt_id or job_of(services, job).finished:
            return
        until_due(services, clock, job)
        turn(services)
    pytest.fail("the job never left the provider")


def test_a_cancelled_job_of_a_provider_that_was_taken_out_is_let_go(
    wire: Wire, services: Services, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    services.jobs.cancel(job.id, job.key_id)
    clock.advance(attempts_of(services, job)[0].deadline - START_MS)
    turn(wire({"other": FakeProvider("other")}))
    assert states(services, job) == [AttemptState.SUPERSEDED]

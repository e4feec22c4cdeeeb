"""What ends because it lasts too long: silent claims, queue limits, deadlines, doubt."""

from __future__ import annotations

import pytest

from gateway.dispatch.limits import AMBIGUOUS_MS, SILENCE_MS
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.errors import AttemptSuperseded
from gateway.providers.base import NotYet
from tests.gateway.conftest import Gateway, Wire, on_every_database
from tests.gateway.dispatch.support import WAITING


@pytest.mark.parametrize(("call", "answer"), [("submit", NotYet("no GPU is free", 2.0)), ("poll", WAITING)])
def test_a_job_that_no_worker_takes_fails_at_its_queue_limit_with_the_last_reason(
    services: Gateway, call: str, answer: object
) -> None:
    job = services.add_job(queue_limit_s=60)
    services.provider.default[call] = answer
    services.turn()
    while not services.job(job).finished:
        services.until_due(job)
        services.turn()
    after = services.job(job)
    assert (after.error_code, after.next_at) == ("queue_timeout", None)
    assert after.error_message == "No worker took the job within 60 s. The last reason: no GPU is free."
    assert all(attempt.ended for attempt in services.store.attempts(job.id))
    assert len(services.provider.called("cancel")) == (1 if call == "poll" else 0)


@on_every_database
def test_a_silent_claim_is_dead_and_the_job_is_tried_again(services: Gateway) -> None:
    job = services.add_job()
    services.turn()
    services.report(services.attempt(job).id, "started")
    services.clock.advance(SILENCE_MS)
    services.turn()
    assert services.states(job) == [AttemptState.CLAIMED]
    services.clock.advance(10_000)
    services.turn()
    (attempt,) = services.store.attempts(job.id)
    assert (attempt.state, attempt.error_code) == (AttemptState.FAILED, "worker_lost")
    assert [a.id for a in services.provider.called("cancel")] == [attempt.id]
    assert services.job(job).status is JobStatus.QUEUED
    with pytest.raises(AttemptSuperseded):
        services.report(attempt.id, "progress", progress=0.5)


def test_a_claim_that_reports_is_never_taken_back(services: Gateway) -> None:
    job = services.add_job()
    services.turn()
    services.report(services.attempt(job).id, "started")
    for _ in range(20):
        services.clock.advance(SILENCE_MS - 1)
        services.report(services.attempt(job).id, "progress", progress=0.5)
        services.turn()
    assert (services.states(job), services.provider.called("cancel")) == ([AttemptState.CLAIMED], [])


def test_silence_does_not_count_while_no_gateway_ran(services: Gateway, wire: Wire) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.clock.advance(10 * SILENCE_MS)
    fresh = wire()
    for pause, state in ((0, AttemptState.CLAIMED), (SILENCE_MS, AttemptState.CLAIMED), (10_000, AttemptState.FAILED)):
        services.clock.advance(pause)
        fresh.turn()
        assert fresh.states(job) == [state]


def test_a_claim_that_comes_while_the_doubt_is_given_up_is_kept(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.AMBIGUOUS, tries=1)
    services.clock.advance(AMBIGUOUS_MS + 1)
    services.provider.script("cancel", lambda attempt: services.report(attempt.id, "started"))
    services.turn()
    assert (services.states(job), services.job(job).status) == ([AttemptState.CLAIMED], JobStatus.RUNNING)
    services.report(job.attempt_id, "progress", progress=0.5)

"""What workers report: claims, progress and ends, and what is not theirs to report."""

from __future__ import annotations

import pytest

from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.errors import AttemptSuperseded
from tests.gateway.conftest import BODY, RESULT, START_MS, Gateway, Wire, on_every_database, together
from wire.errors import AssetNotFound, EncodeFailed

# Events


@on_every_database
def test_events_take_a_job_from_its_claim_to_its_end(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED, tries=1)
    services.report(job.attempt_id, "started")
    services.report(job.attempt_id, "progress", progress=0.5)
    assert services.job(job).progress == 0.5
    services.put_output(job.attempt_id)
    services.report(job.attempt_id, "completed", result=RESULT)
    after = services.job(job)
    assert (after.status, after.stats) == (JobStatus.COMPLETED, {**RESULT["stats"], "provider": "fake"})


def test_started_may_be_repeated_by_the_same_claim_alone(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.SUBMITTED)
    services.report(job.attempt_id, "started")
    services.report(job.attempt_id, "started")
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, "started", claim_id="claim-of-worker-2")


@on_every_database
def test_of_many_workers_one_gets_the_claim(services: Gateway, wire: Wire) -> None:
    job, gateways = services.add_job(attempt=AttemptState.SUBMITTED), [services, wire()]

    def started(number: int) -> bool:
        try:
            gateways[number % 2].report(job.attempt_id, "started", claim_id=f"claim-of-worker-{number}")
        except AttemptSuperseded:
            return False
        return True

    assert sum(together(10, started)) == 1


@pytest.mark.parametrize("type_", ["started", "progress", "completed", "failed"])
def test_an_unknown_attempt_is_superseded(services: Gateway, type_: str) -> None:
    with pytest.raises(AttemptSuperseded):
        services.report("att_unknown", type_, result=RESULT, error=EncodeFailed())


def test_completed_may_be_repeated_by_the_same_claim_alone(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    services.put_output(job.attempt_id)
    services.report(job.attempt_id, "completed", result=RESULT)
    first = services.job(job)
    services.report(job.attempt_id, "completed", result=RESULT)
    assert services.job(job) == first
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, "failed", error=EncodeFailed())
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, "completed", claim_id="claim-of-worker-2", result=RESULT)


@pytest.mark.parametrize("stored", [None, BODY[:-1], BODY + b"!"])
def test_completed_without_the_whole_output_is_tried_again(services: Gateway, stored: bytes | None) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    if stored is not None:
        services.put_output(job.attempt_id, stored)
    services.report(job.attempt_id, "completed", result=RESULT)
    attempt = services.store.attempt(job.attempt_id)
    after = services.job(job)
    assert attempt and (attempt.state, attempt.error_code) == (AttemptState.FAILED, "output_missing")
    assert (after.status, after.error_code) == (JobStatus.QUEUED, None)
    assert START_MS < (after.next_at or 0) <= START_MS + 1_200


def test_a_foreign_claim_cannot_fail_the_attempt_by_claiming_to_have_completed(services: Gateway) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, "completed", claim_id="claim-of-worker-2", result=RESULT)
    assert services.store.job(job.id) == job


@pytest.mark.parametrize(
    ("error", "status"), [(AssetNotFound("video: 404"), JobStatus.FAILED), (EncodeFailed(), JobStatus.QUEUED)]
)
def test_failed_ends_or_retries_by_the_errors_class(
    services: Gateway, error: AssetNotFound | EncodeFailed, status: JobStatus
) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    services.report(job.attempt_id, "failed", error=error)
    assert services.job(job).status is status


@pytest.mark.parametrize("type_", ["started", "progress"])
def test_workers_of_a_cancelled_job_must_stop(services: Gateway, type_: str) -> None:
    job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    services.jobs.cancel(job.id, job.key_id)
    with pytest.raises(AttemptSuperseded):
        services.report(job.attempt_id, type_)


def test_an_event_takes_no_lease_away_and_an_end_does(services: Gateway) -> None:
    job = services.add_job(
        attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, lease_token="t", lease_expires_at=START_MS + 9
    )
    services.report(job.attempt_id, "progress", progress=0.5)
    assert services.job(job).lease_token == "t"
    services.report(job.attempt_id, "failed", error=AssetNotFound())
    assert services.job(job).lease_token is None

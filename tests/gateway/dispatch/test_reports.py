"""What workers report: claims, progress and ends, and what is not theirs to report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.errors import AttemptSuperseded
from gateway.wiring import Services
from tests.gateway.conftest import CLAIM, START_MS, JobFactory, Wire, on_every_database
from wire.envelope import Event
from wire.errors import AssetNotFound, EncodeFailed

BODY = b"a finished video"
RESULT = {"outputs": {"video": {"size_bytes": len(BODY)}}, "stats": {"size_bytes": len(BODY)}}
PutOutput = Callable[[str, bytes], None]


def on_event(services: Services, job: Job, type_: str, claim: str = CLAIM, **more: object) -> None:
    assert job.attempt_id is not None
    services.reports.take(job.attempt_id, Event(type_, claim, **more))  # type: ignore[arg-type]


# Events


@on_every_database
def test_the_way_of_a_job_by_events(services: Services, job_factory: JobFactory, put_output: PutOutput) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED, tries=1)
    on_event(services, job, "started")
    on_event(services, job, "progress", progress=0.5)
    assert services.jobs.get(job.id, job.key_id).progress == 0.5
    put_output(job.attempt_id or "", BODY)
    on_event(services, job, "completed", result=RESULT)
    after = services.jobs.get(job.id, job.key_id)
    assert (after.status, after.stats) == (JobStatus.COMPLETED, {"size_bytes": len(BODY), "provider": "fake"})


def test_started_may_be_repeated_by_the_same_claim_alone(services: Services, job_factory: JobFactory) -> None:
    job = job_factory(attempt=AttemptState.SUBMITTED)
    on_event(services, job, "started")
    on_event(services, job, "started")
    with pytest.raises(AttemptSuperseded):
        on_event(services, job, "started", claim="claim-of-worker-2")


@on_every_database
def test_of_many_workers_one_gets_the_claim(services: Services, wire: Wire, job_factory: JobFactory) -> None:
    job, gateways = job_factory(attempt=AttemptState.SUBMITTED), [services, wire()]
    barrier = threading.Barrier(10)

    def start(number: int) -> None:
        barrier.wait()
        on_event(gateways[number % 2], job, "started", claim=f"claim-of-worker-{number}")

    with ThreadPoolExecutor(10) as pool:
        tried = [pool.submit(start, number) for number in range(10)]
    assert [type(one.exception()) for one in tried if one.exception()] == [AttemptSuperseded] * 9


@pytest.mark.parametrize("type_", ["started", "progress", "completed", "failed"])
def test_an_unknown_attempt_is_superseded(services: Services, type_: str) -> None:
    event = Event(
        type_,
        CLAIM,
        result=RESULT if type_ == "completed" else None,
        error=EncodeFailed() if type_ == "failed" else None,
    )
    with pytest.raises(AttemptSuperseded):
        services.reports.take("att_unknown", event)


def test_completed_repeated_by_the_same_claim_is_answered_like_the_first_time(
    services: Services, job_factory: JobFactory, put_output: PutOutput
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    put_output(job.attempt_id or "", BODY)
    on_event(services, job, "completed", result=RESULT)
    first = services.jobs.get(job.id, job.key_id)
    on_event(services, job, "completed", result=RESULT)
    assert services.jobs.get(job.id, job.key_id) == first
    with pytest.raises(AttemptSuperseded):
        on_event(services, job, "failed", error=EncodeFailed())
    with pytest.raises(AttemptSuperseded):
        on_event(services, job, "completed", claim="claim-of-worker-2", result=RESULT)


@pytest.mark.parametrize("stored", [None, BODY[:-1], BODY + b"!"])
def test_completed_without_the_whole_output_is_tried_again(
    services: Services, job_factory: JobFactory, put_output: PutOutput, stored: bytes | None
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    if stored is not None:
        put_output(job.attempt_id or "", stored)
    on_event(services, job, "completed", result=RESULT)
    attempt = services.store.attempt(job.attempt_id or "")
    after = services.jobs.get(job.id, job.key_id)
    assert attempt and (attempt.state, attempt.error_code) == (AttemptState.FAILED, "output_missing")
    assert (after.status, after.error_code) == (JobStatus.QUEUED, None)
    assert START_MS < (after.next_at or 0) <= START_MS + 1_200


def test_a_foreign_claim_cannot_fail_the_attempt_by_claiming_to_have_completed(
    services: Services, job_factory: JobFactory
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    with pytest.raises(AttemptSuperseded):
        on_event(services, job, "completed", claim="claim-of-worker-2", result=RESULT)
    assert services.store.job(job.id) == job


@pytest.mark.parametrize(
    ("error", "status"), [(AssetNotFound("video: 404"), JobStatus.FAILED), (EncodeFailed(), JobStatus.QUEUED)]
)
def test_failed_ends_or_retries_by_the_errors_class(
    services: Services, job_factory: JobFactory, error: AssetNotFound | EncodeFailed, status: JobStatus
) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    on_event(services, job, "failed", error=error)
    assert services.jobs.get(job.id, job.key_id).status is status


@pytest.mark.parametrize("type_", ["started", "progress"])
def test_workers_of_a_cancelled_job_are_told_to_stop(services: Services, job_factory: JobFactory, type_: str) -> None:
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
    services.jobs.cancel(job.id, job.key_id)
    with pytest.raises(AttemptSuperseded):
        on_event(services, job, type_)


@on_every_database
def test_an_end_wakes_the_job_that_has_waited_longest(services: Services, job_factory: JobFactory) -> None:
    waiting = job_factory(waits=2, next_at=START_MS + 9_000)
    job = job_factory(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, tries=1)
    on_event(services, job, "failed", error=AssetNotFound())
    assert services.jobs.get(waiting.id, waiting.key_id).next_at == START_MS


def test_an_event_takes_no_lease_away_and_an_end_does(services: Services, job_factory: JobFactory) -> None:
    job = job_factory(
        attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING, lease_token="t", lease_expires_at=START_MS + 9
    )
    on_event(services, job, "progress", progress=0.5)
    assert services.jobs.get(job.id, job.key_id).lease_token == "t"
    on_event(services, job, "failed", error=AssetNotFound())
    assert services.jobs.get(job.id, job.key_id).lease_token is None

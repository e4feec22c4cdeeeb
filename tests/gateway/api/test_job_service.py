"""What the HTTP API asks of jobs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.api import job_request
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.errors import AttemptSuperseded, IdempotencyMismatch, JobFinished, NotFound
from tests.gateway.conftest import RESULT, START_MS, Gateway, Wire, on_every_database, together

PARAMS = {"url_image": "https://example.com/i.jpg", "duration": 5}
DAY_MS = 24 * 3600 * 1000


def create(services: Gateway, key_id: str = "key_a", idempotency_key: str | None = None, **params: object) -> Job:
    body = json.dumps(params or PARAMS).encode()
    return services.jobs.create(key_id, job_request.read("img2vid", body), idempotency_key)


def count_jobs(services: Gateway, key_id: str = "key_a") -> int:
    return len(services.store.list_jobs(key_id, limit=1000))


@on_every_database
def test_a_created_job_is_committed_queued_and_due(services: Gateway, wire: Wire) -> None:
    job = create(services)
    assert wire().store.job(job.id) == job
    assert (job.status, job.created_at, job.next_at) == (JobStatus.QUEUED, START_MS, START_MS)
    assert json.loads(services.store.params(job.id) or "") == PARAMS
    assert create(services).id != job.id


def test_limits_of_a_job_are_those_at_its_creation(wire: Wire) -> None:
    services = wire(job_timeout_seconds=7, queue_limit_seconds=9)
    assert (create(services).timeout_s, create(services).queue_limit_s) == (7, 9)


def test_a_job_is_visible_to_its_own_key_only(services: Gateway) -> None:
    job = create(services)
    assert services.jobs.get(job.id, "key_a") == job
    for job_id, key_id in ((job.id, "key_b"), ("job_x", "key_a")):
        with pytest.raises(NotFound):
            services.jobs.get(job_id, key_id)
        with pytest.raises(NotFound):
            services.jobs.cancel(job_id, key_id)
    assert services.jobs.get(job.id, "key_a").status is JobStatus.QUEUED


# Idempotency


@on_every_database
def test_fifty_requests_with_one_key_make_one_job(services: Gateway, wire: Wire) -> None:
    gateways = [services, wire()]
    made = together(50, lambda number: create(gateways[number % 2], idempotency_key="k"))
    assert (len({job.id for job in made}), count_jobs(services)) == (1, 1)


def test_a_different_request_with_the_same_key_is_refused(services: Gateway) -> None:
    job = create(services, idempotency_key="k", **PARAMS)
    assert create(services, idempotency_key="k", **dict(reversed(PARAMS.items()))) == job
    with pytest.raises(IdempotencyMismatch):
        create(services, idempotency_key="k", **{**PARAMS, "duration": 6})
    with pytest.raises(IdempotencyMismatch):
        create(services, idempotency_key="k", url_image="https://example.com/other.jpg")
    with pytest.raises(IdempotencyMismatch):
        services.jobs.create("key_a", job_request.read("frame", b'{"url_video": "https://example.com/v.mp4"}'), "k")
    assert count_jobs(services) == 1


@pytest.mark.parametrize(("after_ms", "same"), [(DAY_MS - 1, True), (DAY_MS, False)])
def test_a_key_is_kept_for_a_day(services: Gateway, after_ms: int, same: bool) -> None:
    first = create(services, idempotency_key="k")
    services.clock.advance(after_ms)
    again = create(services, idempotency_key="k")
    assert (again.id == first.id) is same
    assert create(services, idempotency_key="k").id == again.id


# Cancelling


@on_every_database
def test_cancel_or_complete_wins_but_never_both(services: Gateway) -> None:
    for _ in range(10):
        job = services.add_job(attempt=AttemptState.CLAIMED, status=JobStatus.RUNNING)
        services.put_output(job.attempt_id)
        with ThreadPoolExecutor(2) as pool:
            ends = [
                pool.submit(services.jobs.cancel, job.id, job.key_id),
                pool.submit(services.report, job.attempt_id, "completed", result=RESULT),
            ]
        errors = [type(end.exception()) for end in ends if end.exception()]
        after = services.jobs.get(job.id, job.key_id)
        assert errors == [AttemptSuperseded if after.status is JobStatus.CANCELLED else JobFinished]

"""`/jobs`: reading, listing, waiting, cancelling."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError

from gateway.access.thread_limits import WAITING
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION, Worker, assert_problem
from tests.gateway.conftest import Gateway, JobFactory, Wire, on_every_database

ENDED = [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED]


def ids_of(api: FlaskClient, query: str = "") -> list[str]:
    return [job["jobId"] for job in api.get(f"/jobs{query}").get_json()["jobs"]]


@contextmanager
def later(seconds: float, call: object) -> Iterator[None]:
    """Calls after `seconds` on another thread."""
    timer = threading.Timer(seconds, call)  # type: ignore[arg-type]
    timer.start()
    try:
        yield
    finally:
        timer.join()


# One job


@pytest.mark.parametrize(
    "job_id", ["job_01HF7YAT00M3XH5S9QHW1K2YB4", "x", "%00", "..", "x" * 3000, "'", "%F0%9F%8E%AC"]
)
def test_an_unknown_job_is_not_found(api: FlaskClient, job_id: str) -> None:
    assert_problem(api.get(f"/jobs/{job_id}"), 404, "not_found")
    assert_problem(api.delete(f"/jobs/{job_id}"), 404, "not_found")


@pytest.mark.parametrize("status", list(JobStatus))
def test_the_response_fits_the_status(api: FlaskClient, job_factory: JobFactory, status: JobStatus) -> None:
    failure = {"error_code": "job_timeout", "error_message": "Too long."}
    job = job_factory(status=status, started_at=1, finished_at=2, waiting_for="the worker is busy", **failure)
    response = api.get(f"/jobs/{job.id}")
    assert response.get_json()["status"] == status
    assert response.status_code == (200 if status in ENDED else 202)
    assert ("Retry-After" in response.headers) == (status not in ENDED)
    assert response.headers["Location"] == f"/jobs/{job.id}"
    document = response.get_json()
    assert document["waitingFor"] == "the worker is busy"
    assert document.get("error") == ({"code": "job_timeout", "message": "Too long."} if status == "failed" else None)
    assert not {"video_url", "stats"} & set(document)


@pytest.mark.parametrize(
    ("age_s", "progress", "started", "retry_after_s"),
    [
        (0, 0.0, False, 1),
        (8, 0.0, False, 2),
        (3000, 0.0, False, 30),
        (0, 0.0, True, 1),
        (20, 0.0, True, 5),
        (20, 0.9, True, 2),
        (20, 1.0, True, 1),
        (500, 0.1, True, 10),
        (-3600, 0.5, True, 1),
    ],
)
def test_retry_after_fits_the_age_and_progress_of_the_job(
    services: Gateway,
    api: FlaskClient,
    job_factory: JobFactory,
    age_s: int,
    progress: float,
    started: bool,
    retry_after_s: int,
) -> None:
    now = services.clock.now_ms()
    status = JobStatus.RUNNING if started else JobStatus.QUEUED
    job = job_factory(status=status, progress=progress, started_at=now if started else None)
    services.clock.advance(age_s * 1000)
    response = api.get(f"/jobs/{job.id}")
    assert response.headers["Retry-After"] == str(retry_after_s)
    assert {"video_url", "expiresAt"}.isdisjoint(response.get_json())


def test_the_url_of_a_video_is_signed_anew_at_every_read(services: Gateway, api: FlaskClient, worker: Worker) -> None:
    worker.finish()
    first = api.get(f"/jobs/{worker.job_id}").get_json()["video_url"]
    services.clock.advance(1000)
    assert api.get(f"/jobs/{worker.job_id}").get_json()["video_url"] != first


# Waiting


@pytest.fixture
def patient(wire: Wire, app: Flask) -> Services:
    """A gateway that waits two seconds at most."""
    app.extensions["reelay"] = wire(max_wait_seconds=2)
    return app.extensions["reelay"]  # type: ignore[no-any-return]


def test_a_wait_ends_when_the_job_does(api: FlaskClient, worker: Worker, job_factory: JobFactory) -> None:
    job = job_factory()
    with later(0.2, lambda: api.delete(f"/jobs/{job.id}")):
        assert api.get(f"/jobs/{job.id}?wait=30").get_json()["status"] == "cancelled"
    with later(0.2, worker.finish):
        response = api.get(f"/jobs/{worker.job_id}", headers={"Prefer": "wait=30"})
    assert (response.status_code, response.get_json()["status"]) == (200, "completed")
    assert response.headers["Preference-Applied"] == "wait=30"
    assert "Retry-After" not in response.headers
    ended = api.get(f"/jobs/{worker.job_id}?wait=90")
    assert (ended.status_code, "Preference-Applied" in ended.headers) == (200, False)


def test_a_wait_is_capped(api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(services.waiting_room, "wait", lambda jobs, seconds: waited.append(seconds) or jobs)
    for asked in ("91", "3600", "99999999999999999999"):
        response = api.post(f"/video/caption?wait={asked}", json=CAPTION)
        assert (response.status_code, response.headers["Preference-Applied"]) == (202, "wait=90")
    assert waited == [90, 90, 90]


APPLIED = ["wait=1", "respond-async, wait=1", 'wait="1"; x=y', "WAIT = 1"]
IGNORED = ["wait=0", "wait", "wait=", "wait=-1", "wait=1.5", "wait=1e3", "wait=soon", "wait=12345678", "wait=\u00b2"]
IGNORED += ["await=1", "handling=lenient", ",,;", "x" * 5000]


def test_a_preference_is_applied_or_ignored(
    api: FlaskClient, job_factory: JobFactory, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.waiting_room, "wait", lambda jobs, seconds: jobs)
    path = f"/jobs/{job_factory().id}"
    for prefer in APPLIED + IGNORED:
        response = api.get(path, headers={"Prefer": prefer})
        applied = "wait=1" if prefer in APPLIED else None
        assert (response.status_code, response.headers.get("Preference-Applied")) == (202, applied), prefer
    response = api.get(f"{path}?wait=0", headers={"Prefer": "wait=2"})
    assert "Preference-Applied" not in response.headers, "the query takes precedence"


def test_an_invalid_wait_in_the_query_is_refused_and_stores_no_job(api: FlaskClient, job_factory: JobFactory) -> None:
    job_id = job_factory().id
    for value in ("-1", "soon", "1.5", "", "NaN", "1e3", "%00"):
        for response in (
            api.get(f"/jobs/{job_id}?wait={value}"),
            api.post(f"/video/caption?wait={value}", json=CAPTION),
        ):
            assert list(assert_problem(response, 422, "validation_failed")["errors"]) == ["wait"]
    assert ids_of(api) == [job_id]


def test_a_default_wait_applies(api: FlaskClient, app: Flask, wire: Wire) -> None:
    app.extensions["reelay"] = wire(max_wait_seconds=2, default_wait_seconds=1)
    response = api.post("/video/caption", json=CAPTION)
    assert (response.status_code, response.get_json()["status"]) == (202, "queued")
    assert (response.headers["Preference-Applied"], "Retry-After" in response.headers) == ("wait=1", True)
    response = api.post("/video/caption", json=CAPTION, headers={"Prefer": "wait=0"})
    assert "Preference-Applied" not in response.headers


def test_without_a_free_waiting_thread_the_response_is_immediate(
    api: FlaskClient, services: Gateway, job_factory: JobFactory
) -> None:
    others = itertools.count()
    while services.thread_limits.waiting.take(f"key_{next(others)}"):
        pass
    response = api.post("/video/caption?wait=90", json=CAPTION)
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


def test_a_wait_gives_its_thread_back(api: FlaskClient, patient: Services, job_factory: JobFactory) -> None:
    for number in range(WAITING - 1):
        assert patient.thread_limits.waiting.take(f"key_{number}")
    for _ in range(2):
        response = api.get(f"/jobs/{job_factory().id}?wait=1")
        assert response.headers["Preference-Applied"] == "wait=1"


def test_a_database_error_while_waiting_still_returns_the_stored_job(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job_ids: object) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "jobs_by_id", broken)
        response = api.post("/video/caption?wait=30", json=CAPTION)
    assert response.status_code == 202
    assert ids_of(api) == [response.get_json()["jobId"]]


# Listing


def test_a_list_loads_no_params(api: FlaskClient, services: Gateway) -> None:
    key_id = services.keys.list()[0].id
    for _ in range(30):
        services.add_job(key_id=key_id, params={"text": "x" * 900_000})
    tracemalloc.start()
    try:
        assert len(ids_of(api, "?limit=200")) == 30
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@on_every_database
def test_a_reference_filters_among_the_own_jobs(api: FlaskClient, other_client: FlaskClient) -> None:
    first, second, other = (
        client.post("/video/caption", json={**CAPTION, "reference": reference}).get_json()["jobId"]
        for client, reference in ((api, "row 7"), (api, "row 7"), (api, "row"))
    )
    other_client.post("/video/caption", json={**CAPTION, "reference": "row 7"})
    second, first = sorted((first, second), reverse=True)
    assert ids_of(api, "?reference=row%207") == [second, first]
    assert ids_of(api, "?reference=row") == [other]
    assert ids_of(api, "?reference=ROW%207") == []
    assert ids_of(api, f"?reference=row%207&limit=1&cursor={second}&status=queued") == [first]
    for reference in ("x" * 201, "row%207%00", ""):
        document = assert_problem(api.get(f"/jobs?reference={reference}"), 422, "validation_failed")
        assert list(document["errors"]) == ["reference"]


def test_the_list_can_be_filtered(api: FlaskClient, job_factory: JobFactory) -> None:
    queued = job_factory()
    error = {"error_code": "encode_failed", "error_message": "No."}
    failed = job_factory(status=JobStatus.FAILED, **error)
    shot = job_factory(operation="img2vid", status=JobStatus.FAILED, **error)
    assert ids_of(api, "?status=queued") == [queued.id]
    assert ids_of(api, "?operation=img2vid") == [shot.id]
    assert ids_of(api, "?status=failed&operation=caption") == [failed.id]
    assert ids_of(api, "?status=completed") == []


def test_pages_show_every_job_once_while_new_ones_are_created(api: FlaskClient, job_factory: JobFactory) -> None:
    jobs = {job_factory().id for _ in range(7)}
    seen, cursor = [], ""
    while cursor is not None:
        page = api.get(f"/jobs?limit=3{cursor and f'&cursor={cursor}'}").get_json()
        assert len(page["jobs"]) <= 3
        seen += [job["jobId"] for job in page["jobs"]]
        cursor = page["nextCursor"]
        api.post("/video/caption", json=CAPTION)
    assert seen == sorted(set(seen), reverse=True), "newest first"
    assert jobs <= set(seen)
    page = api.get(f"/jobs?limit={len(ids_of(api))}").get_json()
    assert page["nextCursor"] is None
    assert {api.get(f"/jobs?limit={limit}").status_code for limit in (1, 200)} == {200}


INVALID = "limit=0 limit=-1 limit=201 limit=99999999999999999999999 limit=x limit= limit=1.5 status=done status= page=2"
INVALID += " status=QUEUED status=%00 operation=unknown operation= cursor= cursor=%00 cursor=%ff cursor=job_1 wait=1"
INVALID += f" key_id=key_01HF7YAT00M3XH5S9QHW1K2YB4 JobStatus=queued cursor={'x' * 65}"


def test_an_invalid_query_is_refused_by_name(api: FlaskClient) -> None:
    for query in INVALID.split():
        document = assert_problem(api.get(f"/jobs?{query}"), 422, "validation_failed")
        assert list(document["errors"]) == [query.partition("=")[0]]


# Cancelling


@pytest.mark.parametrize("state", [None, *sorted(set(AttemptState) - {AttemptState.DONE, AttemptState.SUPERSEDED})])
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_an_unfinished_job_can_be_cancelled_twice(
    api: FlaskClient, job_factory: JobFactory, status: JobStatus, state: AttemptState | None
) -> None:
    job = job_factory(status=status, attempt=state, started_at=1)
    response = api.delete(f"/jobs/{job.id}")
    assert (response.status_code, response.get_json()["status"]) == (200, "cancelled")
    for again in (api.get(f"/jobs/{job.id}"), api.delete(f"/jobs/{job.id}")):
        assert (again.status_code, again.get_json()) == (200, response.get_json())


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_a_job_that_has_ended_cannot_be_cancelled(api: FlaskClient, job_factory: JobFactory, status: JobStatus) -> None:
    job = job_factory(status=status, started_at=1, finished_at=2, error_code="job_timeout", error_message="Too long.")
    document = assert_problem(api.delete(f"/jobs/{job.id}"), 409, "job_finished")
    assert status in document["detail"]
    assert api.get(f"/jobs/{job.id}").get_json()["status"] == status

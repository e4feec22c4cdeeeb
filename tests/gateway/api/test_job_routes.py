"""`/jobs`: looking, listing, waiting, cancelling."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy.exc import OperationalError

from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import JobStatus
from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION, Worker, assert_problem
from tests.gateway.conftest import FixedClock, JobFactory, Wire

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
def test_the_answer_tells_whether_to_ask_again(api: FlaskClient, job_factory: JobFactory, status: JobStatus) -> None:
    job = job_factory(status=status, started_at=1, finished_at=2, error_code="job_timeout", error_message="Too long.")
    response = api.get(f"/jobs/{job.id}")
    assert response.get_json()["status"] == status
    assert response.status_code == (200 if status in ENDED else 202)
    assert ("Retry-After" in response.headers) == (status not in ENDED)
    assert response.headers["Location"] == f"/jobs/{job.id}"


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
def test_when_to_ask_again_fits_the_job(
    api: FlaskClient,
    job_factory: JobFactory,
    clock: FixedClock,
    age_s: int,
    progress: float,
    started: bool,
    retry_after_s: int,
) -> None:
    now = clock.now_ms()
    status = JobStatus.RUNNING if started else JobStatus.QUEUED
    job = job_factory(status=status, progress=progress, started_at=now if started else None)
    clock.advance(age_s * 1000)
    response = api.get(f"/jobs/{job.id}")
    assert response.headers["Retry-After"] == str(retry_after_s)
    assert {"video_url", "expiresAt"}.isdisjoint(response.get_json())


def test_a_job_that_waits_again_is_asked_for_as_a_new_one(
    api: FlaskClient, job_factory: JobFactory, clock: FixedClock
) -> None:
    job = job_factory(queued_at=clock.now_ms() + 600_000, started_at=clock.now_ms())
    clock.advance(600_000)
    assert api.get(f"/jobs/{job.id}").headers["Retry-After"] == "1"


def test_a_failed_job_tells_code_and_message_and_no_url(api: FlaskClient, job_factory: JobFactory) -> None:
    job = job_factory(status=JobStatus.FAILED, finished_at=2, error_code="job_timeout", error_message="Too long.")
    document = api.get(f"/jobs/{job.id}").get_json()
    assert document["error"] == {"code": "job_timeout", "message": "Too long."}
    assert not {"video_url", "stats"} & set(document)


def test_a_waiting_job_tells_what_for(api: FlaskClient, job_factory: JobFactory) -> None:
    job = job_factory(waiting_for="the worker is busy")
    assert api.get(f"/jobs/{job.id}").get_json()["waitingFor"] == "the worker is busy"


def test_the_url_of_a_video_is_signed_anew_at_every_read(api: FlaskClient, worker: Worker, clock: object) -> None:
    worker.finish()
    first = api.get(f"/jobs/{worker.job_id}").get_json()["video_url"]
    clock.advance(1000)  # type: ignore[attr-defined]
    assert api.get(f"/jobs/{worker.job_id}").get_json()["video_url"] != first


# Waiting


@pytest.fixture
def patient(wire: Wire, app: Flask) -> Services:
    """A gateway that waits two seconds at most."""
    app.extensions["reelay"] = wire(max_wait_seconds=2)
    return app.extensions["reelay"]  # type: ignore[no-any-return]


def test_a_wait_ends_when_the_job_does(api: FlaskClient, worker: Worker) -> None:
    with later(0.2, worker.finish):
        response = api.get(f"/jobs/{worker.job_id}", headers={"Prefer": "wait=30"})
    assert (response.status_code, response.get_json()["status"]) == (200, "completed")
    assert response.headers["Preference-Applied"] == "wait=30"
    assert "Retry-After" not in response.headers


def test_a_wait_ends_when_the_job_is_cancelled(api: FlaskClient, job_factory: JobFactory) -> None:
    job = job_factory()
    with later(0.2, lambda: api.delete(f"/jobs/{job.id}")):
        assert api.get(f"/jobs/{job.id}?wait=30").get_json()["status"] == "cancelled"


def test_a_wait_that_runs_out_answers_the_job_so_far(api: FlaskClient, patient: Services) -> None:
    response = api.post("/video/caption", json=CAPTION, headers={"Prefer": "wait=1"})
    assert (response.status_code, response.get_json()["status"]) == (202, "queued")
    assert response.headers["Preference-Applied"] == "wait=1"
    assert "Retry-After" in response.headers


def test_a_wait_is_capped(api: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(services.jobs, "wait", lambda job, seconds: waited.append(seconds) or job)
    for asked in ("91", "3600", "99999999999999999999"):
        response = api.post(f"/video/caption?wait={asked}", json=CAPTION)
        assert (response.status_code, response.headers["Preference-Applied"]) == (202, "wait=90")
    assert waited == [90, 90, 90]


PREFERENCES = [
    ("wait=1", "wait=1"),
    ("respond-async, wait=1", "wait=1"),
    ('wait="1"; x=y', "wait=1"),
    ("WAIT = 1", "wait=1"),
    ("wait=0", None),
    ("wait", None),
    ("wait=", None),
    ("wait=-1", None),
    ("wait=1.5", None),
    ("wait=1e3", None),
    ("wait=soon", None),
    ("wait=12345678", None),
    ("wait=\u00b2", None),
    ("await=1", None),
    ("handling=lenient", None),
    (",,;", None),
    ("x" * 5000, None),
]


def test_a_preference_is_taken_or_ignored(
    api: FlaskClient, job_factory: JobFactory, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.jobs, "wait", lambda job, seconds: job)
    path = f"/jobs/{job_factory().id}"
    for prefer, applied in PREFERENCES:
        response = api.get(path, headers={"Prefer": prefer})
        assert (response.status_code, response.headers.get("Preference-Applied")) == (202, applied), prefer


def test_a_wait_in_the_query_that_makes_no_sense_is_refused(api: FlaskClient, job_factory: JobFactory) -> None:
    path = f"/jobs/{job_factory().id}"
    for value in ("-1", "soon", "1.5", "", "NaN", "1e3", "%00"):
        document = assert_problem(api.get(f"{path}?wait={value}"), 422, "validation_failed")
        assert list(document["errors"]) == ["wait"]


def test_a_wrong_wait_stores_no_job(api: FlaskClient) -> None:
    for value in ("-1", "x"):
        assert api.post(f"/video/caption?wait={value}", json=CAPTION).status_code == 422
    assert ids_of(api) == []


def test_the_query_goes_before_the_header(api: FlaskClient, job_factory: JobFactory, patient: Services) -> None:
    response = api.get(f"/jobs/{job_factory().id}?wait=0", headers={"Prefer": "wait=2"})
    assert "Preference-Applied" not in response.headers


def test_waiting_may_be_the_default(api: FlaskClient, app: Flask, wire: Wire) -> None:
    app.extensions["reelay"] = wire(max_wait_seconds=2, default_wait_seconds=1)
    response = api.post("/video/caption", json=CAPTION)
    assert (response.status_code, response.headers["Preference-Applied"]) == (202, "wait=1")
    response = api.post("/video/caption", json=CAPTION, headers={"Prefer": "wait=0"})
    assert "Preference-Applied" not in response.headers


def test_a_job_that_has_ended_is_not_waited_for(api: FlaskClient, worker: Worker) -> None:
    worker.finish()
    response = api.get(f"/jobs/{worker.job_id}?wait=90")
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers


def test_without_a_free_waiting_thread_the_answer_comes_at_once(
    api: FlaskClient, services: Services, job_factory: JobFactory
) -> None:
    while services.thread_limits.waiting.take():
        pass
    response = api.post("/video/caption?wait=90", json=CAPTION)
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


def test_a_wait_gives_its_thread_back(api: FlaskClient, patient: Services, job_factory: JobFactory) -> None:
    for _ in range(patient.settings.threads // 2 - 1):
        assert patient.thread_limits.waiting.take()
    for _ in range(2):
        response = api.get(f"/jobs/{job_factory().id}?wait=1")
        assert response.headers["Preference-Applied"] == "wait=1"


def test_a_database_that_fails_while_waiting_does_not_turn_the_stored_job_into_an_error(
    api: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(job_id: str) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        patch.setattr(services.store, "job", broken)
        response = api.post("/video/caption?wait=30", json=CAPTION)
    assert response.status_code == 202
    assert ids_of(api) == [response.get_json()["jobId"]]


# Listing


def test_the_newest_job_comes_first(api: FlaskClient) -> None:
    made = [api.post("/video/caption", json=CAPTION).get_json()["jobId"] for _ in range(3)]
    assert ids_of(api) == sorted(made, reverse=True)


def test_the_list_can_be_narrowed(api: FlaskClient, job_factory: JobFactory) -> None:
    queued = job_factory()
    failed = job_factory(status=JobStatus.FAILED)
    shot = job_factory(operation="img2vid", status=JobStatus.FAILED)
    assert ids_of(api, "?status=queued") == [queued.id]
    assert ids_of(api, "?operation=img2vid") == [shot.id]
    assert ids_of(api, "?status=failed&operation=caption") == [failed.id]
    assert ids_of(api, "?status=completed") == []


def test_pages_show_every_job_once_while_new_ones_come_in(api: FlaskClient, job_factory: JobFactory) -> None:
    jobs = {job_factory().id for _ in range(7)}
    seen, cursor = [], ""
    while cursor is not None:
        page = api.get(f"/jobs?limit=3{cursor and f'&cursor={cursor}'}").get_json()
        assert len(page["jobs"]) <= 3
        seen += [job["jobId"] for job in page["jobs"]]
        cursor = page["nextCursor"]
        api.post("/video/caption", json=CAPTION)
    assert len(seen) == len(set(seen))
    assert jobs <= set(seen)


def test_a_full_last_page_has_no_cursor(api: FlaskClient, job_factory: JobFactory) -> None:
    for _ in range(4):
        job_factory()
    page = api.get("/jobs?limit=4").get_json()
    assert (len(page["jobs"]), page["nextCursor"]) == (4, None)


@pytest.mark.parametrize("limit", [1, 200])
def test_the_limits_of_a_page_are_taken(api: FlaskClient, limit: int) -> None:
    assert api.get(f"/jobs?limit={limit}").status_code == 200


SENSELESS = [
    "limit=0",
    "limit=-1",
    "limit=201",
    "limit=99999999999999999999999",
    "limit=x",
    "limit=",
    "limit=1.5",
    "status=done",
    "status=",
    "status=QUEUED",
    "status=%00",
    "operation=unknown",
    "operation=",
    "cursor=" + "x" * 65,
    "cursor=",
    "cursor=%00",
    "cursor=%ff",
    "cursor=job_1",
    "page=2",
    "key_id=key_01HF7YAT00M3XH5S9QHW1K2YB4",
    "JobStatus=queued",
    "wait=1",
]


def test_a_query_that_makes_no_sense_is_named(api: FlaskClient) -> None:
    for query in SENSELESS:
        document = assert_problem(api.get(f"/jobs?{query}"), 422, "validation_failed")
        assert list(document["errors"]) == [query.partition("=")[0]]


# Cancelling


@pytest.mark.parametrize(
    "state",
    [
        None,
        AttemptState.INTENT,
        AttemptState.SUBMITTED,
        AttemptState.CLAIMED,
        AttemptState.AMBIGUOUS,
        AttemptState.FAILED,
    ],
)
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_a_job_under_way_can_be_cancelled(
    api: FlaskClient, job_factory: JobFactory, status: JobStatus, state: AttemptState | None
) -> None:
    job = job_factory(status=status, attempt=state, started_at=1)
    response = api.delete(f"/jobs/{job.id}")
    assert (response.status_code, response.get_json()["status"]) == (200, "cancelled")
    assert response.get_json() == api.get(f"/jobs/{job.id}").get_json()


def test_cancelling_twice_is_cancelling_once(api: FlaskClient, job_factory: JobFactory) -> None:
    job = job_factory()
    first, again = api.delete(f"/jobs/{job.id}"), api.delete(f"/jobs/{job.id}")
    assert (again.status_code, again.get_json()) == (200, first.get_json())


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_a_job_that_has_ended_cannot_be_cancelled(api: FlaskClient, job_factory: JobFactory, status: JobStatus) -> None:
    job = job_factory(status=status, started_at=1, finished_at=2, error_code="job_timeout", error_message="Too long.")
    document = assert_problem(api.delete(f"/jobs/{job.id}"), 409, "job_finished")
    assert status in document["title"]
    assert api.get(f"/jobs/{job.id}").get_json()["status"] == status


def test_cancelling_takes_the_attempt_back(api: FlaskClient, worker: Worker, services: Services, provider) -> None:  # type: ignore[no-untyped-def]
    api.delete(f"/jobs/{worker.job_id}")
    services.dispatcher.tick()
    services.dispatcher.settle()
    assert [attempt.id for attempt in provider.called("cancel")] == [worker.attempt_id]

"""The response with a job under strict handling, and the one with many jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway.domain.jobs import JobStatus
from tests.gateway.api.conftest import CAPTION, Worker, assert_problem
from tests.gateway.conftest import Gateway, JobFactory
from tests.servers import eventually
from wire.errors import CODES, JobError, JobFault, Stopped

STRICT = {"Prefer": "handling=strict"}
CODES_OF_JOBS = sorted(
    code for code, cls in CODES.items() if issubclass(cls, JobError) and not issubclass(cls, Stopped)
)


def failed(job_factory: JobFactory, code: str = "job_timeout", **changes: Any) -> str:
    return job_factory(
        status=JobStatus.FAILED, finished_at=2, error_code=code, error_message="Why it failed.", **changes
    ).id


# Strict handling


@pytest.mark.parametrize("code", CODES_OF_JOBS)
def test_a_failed_job_is_a_problem_with_its_code(api: FlaskClient, job_factory: JobFactory, code: str) -> None:
    job_id = failed(job_factory, code)
    plain = api.get(f"/jobs/{job_id}")
    assert plain.status_code == 200
    own_fault = issubclass(CODES[code], JobFault) and code != "queue_timeout"
    document = assert_problem(api.get(f"/jobs/{job_id}?strict=true"), 422 if own_fault else 502, code)
    assert document["detail"] == "Why it failed."
    assert document["job"] == plain.get_json()
    assert "errors" not in document


def test_the_query_and_the_header_ask_for_strict_handling(api: FlaskClient, job_factory: JobFactory) -> None:
    path = f"/jobs/{failed(job_factory)}"
    for prefer in ("handling=strict", "wait=1, handling=strict", 'Handling="strict"; x=y'):
        response = api.get(path, headers={"Prefer": prefer})
        assert_problem(response, 422, "job_timeout")
        assert response.headers["Preference-Applied"] == "handling=strict"
        assert response.headers["Location"] == path
    assert api.get(f"{path}?strict=true", headers={"Prefer": "handling=lenient"}).status_code == 422
    assert api.get(f"{path}?strict=false", headers=STRICT).status_code == 200
    for prefer in ("handling=lenient", "handling", "handling=", "strict", "handling=strictly"):
        assert api.get(path, headers={"Prefer": prefer}).status_code == 200
    assert list(assert_problem(api.get(f"{path}?strict=very"), 422, "validation_failed")["errors"]) == ["strict"]


def test_strict_handling_changes_nothing_for_a_job_that_did_not_fail(api: FlaskClient, worker: Worker) -> None:
    for step, status in ((lambda: worker.report("started"), 202), (worker.finish, 200)):
        step()
        strict, plain = (api.get(f"/jobs/{worker.job_id}", headers=headers) for headers in (STRICT, {}))
        assert (strict.status_code, strict.get_json()) == (status, plain.get_json())
        assert strict.headers.get("Retry-After") == plain.headers.get("Retry-After")


def test_a_cancelled_job_is_no_success(api: FlaskClient) -> None:
    """Whoever continues after a strict request has a result."""
    job_id = api.post("/video/caption", json=CAPTION).get_json()["jobId"]
    assert api.delete(f"/jobs/{job_id}", headers=STRICT).status_code == 200
    document = assert_problem(api.get(f"/jobs/{job_id}?strict=1"), 409, "job_cancelled")
    assert document["job"]["status"] == "cancelled"


def test_a_strict_request_that_makes_a_job_waits_and_fails_with_it(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Prefer": "wait=60, handling=strict", "Idempotency-Key": "order-1"}
    with monkeypatch.context() as patch:
        patch.setattr(services.waiting_room, "wait", lambda jobs, seconds: jobs)
        response = api.post("/video/caption", json=CAPTION, headers=headers)
    assert (response.status_code, response.headers["Preference-Applied"]) == (202, "wait=60, handling=strict")
    job_id = response.get_json()["jobId"]
    services.turn()
    attempt_id = services.store.job(job_id).attempt_id
    services.report(attempt_id, "started")
    services.report(attempt_id, "failed", error=CODES["asset_not_found"]("No such file."))
    document = assert_problem(api.post("/video/caption", json=CAPTION, headers=headers), 422, "asset_not_found")
    assert (document["detail"], document["job"]["jobId"]) == ("No such file.", job_id)


# Many jobs


def query_of(job_ids: list[str]) -> str:
    return "/jobs?" + "&".join(f"id={job_id}" for job_id in job_ids)


def test_many_jobs_are_read_in_the_order_of_their_ids(api: FlaskClient, job_factory: JobFactory) -> None:
    job_ids = [failed(job_factory) for _ in range(3)]
    for order in (job_ids, job_ids[::-1], [*job_ids, job_ids[0]]):
        response = api.get(query_of(order))
        page = response.get_json()
        assert [job["jobId"] for job in page["jobs"]] == list(dict.fromkeys(order))
        assert page["jobs"] == [api.get(f"/jobs/{job_id}").get_json() for job_id in dict.fromkeys(order)]
        assert (response.status_code, page["nextCursor"], page["notFound"]) == (200, None, [])
        assert "Retry-After" not in response.headers


def test_one_unfinished_job_makes_the_response_a_202(api: FlaskClient, job_factory: JobFactory) -> None:
    job_ids = [failed(job_factory), job_factory().id]
    response = api.get(query_of(job_ids))
    assert (response.status_code, response.headers["Retry-After"]) == (202, "1")
    assert "Preference-Applied" not in response.headers


def test_a_foreign_or_unknown_job_hides_no_other_and_reveals_nothing(
    api: FlaskClient, other_client: FlaskClient, job_factory: JobFactory
) -> None:
    own = [job_factory().id for _ in range(98)]
    foreign = other_client.post("/video/caption", json=CAPTION).get_json()["jobId"]
    page = api.get(query_of([*own[:50], foreign, "no id", *own[50:]])).get_json()
    assert [job["jobId"] for job in page["jobs"]] == own
    assert page["notFound"] == [foreign, "no id"]
    response = api.get(query_of([foreign]) + "&wait=60")
    assert (response.status_code, response.get_json()["jobs"]) == (200, [])
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (query_of([f"job_{number}" for number in range(101)]), ["id"]),
        ("/jobs?id=", ["id[0]"]),
        ("/jobs?id=%00", ["id[0]"]),
        (f"/jobs?id=a&id={'x' * 41}", ["id[1]"]),
        ("/jobs?id=a&limit=5&status=failed", ["limit", "status"]),
        ("/jobs?id=a&cursor=job_01HF7YAT00M3XH5S9QHW1K2YB4", ["cursor"]),
        ("/jobs?id=a&strict=true", ["strict"]),
        ("/jobs?wait=5", ["wait"]),
        ("/jobs?id=a&wait=-1", ["wait"]),
    ],
)
def test_an_invalid_request_for_many_is_refused(api: FlaskClient, query: str, fields: list[str]) -> None:
    assert list(assert_problem(api.get(query), 422, "validation_failed")["errors"]) == fields


def test_one_request_waits_for_many_and_takes_one_place(
    app: Flask, api: FlaskClient, services: Gateway, job_factory: JobFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job_factory() for _ in range(3)]
    taken: list[str] = []
    held = services.thread_limits.waiting.held
    monkeypatch.setattr(services.thread_limits.waiting, "held", lambda key_id: taken.append(key_id) or held(key_id))
    with ThreadPoolExecutor(1) as pool:
        response = pool.submit(api.get, query_of([job.id for job in jobs]), headers={"Prefer": "wait=60"})
        eventually(lambda: services.waiting_room._waiting)
        for job in jobs:
            services.jobs.cancel(job.id, job.key_id)
        ended = response.result(60)
    assert (ended.status_code, ended.headers["Preference-Applied"]) == (200, "wait=60")
    assert {job["status"] for job in ended.get_json()["jobs"]} == {"cancelled"}
    assert taken == [jobs[0].key_id]

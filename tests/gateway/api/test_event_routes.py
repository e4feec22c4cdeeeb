"""`POST /events/<attempt>`: claims, progress, ends, and everything that must not change a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from gateway.domain.jobs import JobStatus
from gateway.wiring import Services
from tests.gateway.api.conftest import VIDEO, Worker, assert_problem
from tests.gateway.conftest import CLAIM, FixedClock

OTHER = "claim-of-worker-2"
ERROR = {"code": "asset_not_found", "message": "The URL answered 404.", "retryable": False}
LOST = {"code": "worker_error", "message": "Out of memory.", "retryable": True}
EVENTS: dict[str, dict[str, Any]] = {
    "started": {},
    "progress": {"progress": 0.5},
    "completed": {"result": {"outputs": {"video": {"size_bytes": len(VIDEO)}}, "stats": {"size_bytes": len(VIDEO)}}},
    "failed": {"error": ERROR},
}


def job_of(api: FlaskClient, worker: Worker) -> dict[str, Any]:
    return api.get(f"/jobs/{worker.job_id}").get_json()  # type: ignore[no-any-return]


def test_an_attempt_goes_its_way(api: FlaskClient, worker: Worker) -> None:
    assert worker.report("started").get_json() == {}
    assert job_of(api, worker)["status"] == "running"
    worker.report("progress", progress=0.5)
    assert job_of(api, worker)["progress"] == 0.5
    worker.put()
    assert worker.complete().status_code == 200
    assert job_of(api, worker)["status"] == "completed"


def test_a_repeated_claim_is_granted_again(api: FlaskClient, worker: Worker) -> None:
    for _ in range(3):
        assert worker.report("started").status_code == 200
    assert job_of(api, worker)["status"] == "running"


@pytest.mark.parametrize("type_", sorted(EVENTS))
def test_another_claim_changes_nothing(api: FlaskClient, worker: Worker, type_: str) -> None:
    worker.report("started")
    worker.put()
    before = job_of(api, worker)
    assert_problem(worker.report(type_, claim_id=OTHER, **EVENTS[type_]), 409, "attempt_superseded")
    assert job_of(api, worker) == before


@pytest.mark.parametrize("type_", ["progress", "completed", "failed"])
def test_who_has_not_claimed_changes_nothing(api: FlaskClient, worker: Worker, type_: str) -> None:
    worker.put()
    assert_problem(worker.report(type_, **EVENTS[type_]), 409, "attempt_superseded")
    assert job_of(api, worker)["status"] == "queued"


@pytest.mark.parametrize("type_", sorted(EVENTS))
def test_on_a_cancelled_job_every_event_says_stop(api: FlaskClient, worker: Worker, type_: str) -> None:
    worker.report("started")
    worker.put()
    api.delete(f"/jobs/{worker.job_id}")
    assert_problem(worker.report(type_, **EVENTS[type_]), 409, "attempt_superseded")
    assert job_of(api, worker)["status"] == "cancelled"


def test_a_job_cancelled_before_the_claim_is_not_begun(api: FlaskClient, worker: Worker) -> None:
    api.delete(f"/jobs/{worker.job_id}")
    assert_problem(worker.report("started"), 409, "attempt_superseded")


def test_completed_without_an_output_is_no_success(api: FlaskClient, worker: Worker, services: Services) -> None:
    worker.report("started")
    assert worker.complete().status_code == 200
    assert job_of(api, worker)["status"] == "queued"
    attempt = services.store.attempt(worker.attempt_id)
    assert attempt is not None and attempt.error_code == "output_missing"


def test_completed_with_another_size_than_stored_is_no_success(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    worker.put(VIDEO[:-1])
    worker.complete(VIDEO)
    assert job_of(api, worker)["status"] == "queued"


def test_completed_may_be_repeated(api: FlaskClient, worker: Worker, clock: FixedClock) -> None:
    worker.finish()
    before = job_of(api, worker)
    clock.advance(1)
    assert worker.complete().status_code == 200
    assert {**job_of(api, worker), "video_url": 0} == {**before, "video_url": 0}


def test_who_completed_cannot_fail_any_more(api: FlaskClient, worker: Worker) -> None:
    worker.finish()
    worker.report("failed", error=ERROR)
    assert job_of(api, worker)["status"] == "completed"


def test_after_the_end_progress_says_stop(worker: Worker) -> None:
    worker.finish()
    assert_problem(worker.report("progress", progress=0.1), 409, "attempt_superseded")


def test_the_jobs_own_fault_fails_it_with_code_and_message(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    assert worker.report("failed", error=ERROR).status_code == 200
    job = job_of(api, worker)
    assert (job["status"], job["error"]) == ("failed", {"code": ERROR["code"], "message": ERROR["message"]})


def test_another_try_follows_what_may_be_tried_again(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    worker.report("failed", error=LOST)
    assert job_of(api, worker)["status"] == "queued"


def test_failed_may_be_repeated(worker: Worker) -> None:
    worker.report("started")
    for _ in range(2):
        assert worker.report("failed", error=ERROR).status_code == 200


def test_a_code_of_a_newer_worker_keeps_its_name(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    worker.report("failed", error={"code": "from_the_future", "message": "?", "retryable": False})
    assert job_of(api, worker)["error"]["code"] == "from_the_future"


def test_an_older_attempt_says_nothing_any_more(
    api: FlaskClient, worker: Worker, services: Services, clock: FixedClock, provider: Any
) -> None:
    worker.report("started")
    worker.report("failed", error=LOST)
    clock.advance(60_000)
    services.dispatcher.tick()
    services.dispatcher.settle()
    assert provider.inputs[-1]["delivery"]["attempt_id"] != worker.attempt_id
    for type_ in ("started", "progress"):
        assert_problem(worker.report(type_, **EVENTS[type_]), 409, "attempt_superseded")
    assert_problem(worker.put(), 409, "attempt_superseded")


def test_progress_never_goes_back(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    for progress in (0.7, 0.2, 0.0):
        assert worker.report("progress", progress=progress).status_code == 200
    assert job_of(api, worker)["progress"] == 0.7


def test_events_are_what_keeps_a_claim_alive(
    api: FlaskClient, worker: Worker, services: Services, clock: FixedClock
) -> None:
    worker.report("started")
    for _ in range(4):
        clock.advance(20_000)
        worker.report("progress", progress=0.1)
        services.dispatcher.tick()
        services.dispatcher.settle()
    assert job_of(api, worker)["status"] == "running"


WRONG: list[dict[str, Any]] = [
    {"type": "paused"},
    {"type": None},
    {"type": "Started"},
    {"type": ["started"]},
    {"claim_id": None},
    {"claim_id": "short"},
    {"claim_id": "x" * 65},
    {"claim_id": 12345678},
    {"type": "progress", "progress": -0.1},
    {"type": "progress", "progress": 1.1},
    {"type": "progress", "progress": "half"},
    {"type": "progress", "progress": True},
    {"type": "progress", "progress": float("nan")},
    {"type": "progress", "progress": float("inf")},
    {"type": "completed"},
    {"type": "completed", "result": {}},
    {"type": "completed", "result": []},
    {"type": "completed", "result": {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": "many"}}},
    {"type": "completed", "result": {"outputs": {}, "stats": {"duration_s": float("nan")}}},
    {"type": "started", "result": {"outputs": {}, "stats": {}}},
    {"type": "failed"},
    {"type": "failed", "error": "broken"},
    {"type": "failed", "error": {"code": "Not A Code", "message": "", "retryable": True}},
    {"type": "failed", "error": {"code": "worker_error", "message": "x" * 2001, "retryable": True}},
    {"type": "failed", "error": {"code": "worker_error", "retryable": True}},
    {"type": "progress", "error": ERROR},
]


def test_an_event_of_a_wrong_shape_changes_nothing(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    before = job_of(api, worker)
    headers = {"Authorization": f"Bearer {worker.delivery['events']['token']}"}
    for wrong in WRONG:
        event = {"type": "started", "claim_id": CLAIM, **wrong}
        response = worker.client.post(worker.events, json=event, headers=headers)
        document = assert_problem(response, 422, "validation_failed")
        assert all(isinstance(reasons, list) for reasons in document["errors"].values())
    assert job_of(api, worker) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 90_000, b'{"claim_id": "\\ud800-123456"}'])
def test_what_is_no_event_is_refused(worker: Worker, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {worker.delivery['events']['token']}"}
    response = worker.client.post(worker.events, data=body, headers=headers, content_type="application/json")
    assert response.status_code in {400, 422}


def test_text_that_is_no_unicode_is_refused(worker: Worker) -> None:
    worker.report("started")
    error = {**ERROR, "message": "\ud800"}
    assert_problem(worker.report("failed", error=error), 400, "malformed_body")


def test_a_huge_event_is_refused(worker: Worker) -> None:
    assert_problem(worker.report("started", more="x" * 1_000_000), 413, "payload_too_large")


def test_what_a_newer_worker_adds_is_ignored(api: FlaskClient, worker: Worker) -> None:
    assert worker.report("started", gpu="H100").status_code == 200
    worker.put()
    stats = {"size_bytes": len(VIDEO), "watts": 300}
    assert (
        worker.report(
            "completed",
            result={"outputs": {"video": {"size_bytes": len(VIDEO), "more": 1}}, "stats": stats, "more": 1},
            extra=None,
        ).status_code
        == 200
    )
    assert "watts" not in job_of(api, worker)["stats"]


def test_an_attempt_that_was_removed_says_stop(worker: Worker, services: Services) -> None:
    with services.store._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM attempts")
        connection.exec_driver_sql("DELETE FROM jobs")
    for type_, event in EVENTS.items():
        assert_problem(worker.report(type_, **event), 409, "attempt_superseded")
    assert_problem(worker.put(), 409, "attempt_superseded")


def test_of_two_workers_with_one_attempt_one_gets_it(worker: Worker) -> None:
    answers = [worker.report("started", claim_id=claim).status_code for claim in (OTHER, CLAIM, OTHER, CLAIM)]
    assert answers == [200, 409, 200, 409]


def test_the_ends_of_all_attempts_are_known_words(new_worker: Callable[[], Worker], api: FlaskClient) -> None:
    words = set()
    for end in ("finish", "fail", "cancel"):
        worker = new_worker()
        worker.report("started")
        if end == "finish":
            worker.finish()
        elif end == "fail":
            worker.report("failed", error=ERROR)
        else:
            api.delete(f"/jobs/{worker.job_id}")
        words.add(job_of(api, worker)["status"])
    assert words == {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}

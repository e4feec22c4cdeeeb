"""`POST /events/<attempt>`: what workers report, and the responses to it.

What each event changes is in `tests/gateway/dispatch/test_reports.py`, tokens are in `test_foreign_tokens.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.gateway.api.conftest import VIDEO, Worker, assert_problem
from tests.gateway.conftest import CLAIM, Gateway

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


def test_a_worker_reports_claim_progress_and_end(api: FlaskClient, worker: Worker) -> None:
    assert worker.report("started").get_json() == {}
    assert job_of(api, worker)["status"] == "running"
    worker.report("progress", progress=0.5)
    assert job_of(api, worker)["progress"] == 0.5
    worker.put()
    for type_ in EVENTS:
        assert_problem(worker.report(type_, claim_id=OTHER, **EVENTS[type_]), 409, "attempt_superseded")
    assert worker.complete().status_code == 200
    assert job_of(api, worker)["status"] == "completed"


def test_completed_without_an_output_is_not_a_success(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.report("started")
    assert worker.complete().status_code == 200
    assert job_of(api, worker)["status"] == "queued"
    attempt = services.store.attempt(worker.attempt_id)
    assert attempt is not None and attempt.error_code == "output_missing"


@pytest.mark.parametrize("code", ["asset_not_found", "from_a_newer_worker"])
def test_a_fault_of_the_job_fails_it_with_code_and_message(api: FlaskClient, worker: Worker, code: str) -> None:
    worker.report("started")
    assert worker.report("failed", error={**ERROR, "code": code}).status_code == 200
    job = job_of(api, worker)
    assert (job["status"], job["error"]) == ("failed", {"code": code, "message": ERROR["message"]})


def test_an_older_attempt_is_superseded(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.report("started")
    worker.report("failed", error=LOST)
    services.clock.advance(60_000)
    services.turn()
    assert services.provider.inputs[-1]["delivery"]["attempt_id"] != worker.attempt_id
    for type_ in ("started", "progress"):
        assert_problem(worker.report(type_, **EVENTS[type_]), 409, "attempt_superseded")
    assert_problem(worker.put(), 409, "attempt_superseded")


def test_events_keep_a_claim_alive(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.report("started")
    for _ in range(4):
        services.clock.advance(20_000)
        worker.report("progress", progress=0.1)
        services.turn()
    assert job_of(api, worker)["status"] == "running"


WRONG: list[dict[str, Any]] = [
    *({"type": type_} for type_ in ("paused", None, "Started", ["started"], "completed", "failed")),
    *({"claim_id": claim_id} for claim_id in (None, "short", "x" * 65, 12345678)),
    *({"type": "progress", "progress": value} for value in (-0.1, 1.1, "half", True, float("nan"), float("inf"))),
    *({"type": "completed", "result": result} for result in ({}, [])),
    {"type": "completed", "result": {"outputs": {"video": {"size_bytes": 5}}, "stats": {"size_bytes": "many"}}},
    {"type": "completed", "result": {"outputs": {}, "stats": {"duration_s": float("nan")}}},
    {"type": "started", "result": {"outputs": {}, "stats": {}}},
    {"type": "failed", "error": "broken"},
    {"type": "failed", "error": {"code": "Not A Code", "message": "", "retryable": True}},
    {"type": "failed", "error": {"code": "worker_error", "message": "x" * 2001, "retryable": True}},
    {"type": "failed", "error": {"code": "worker_error", "retryable": True}},
    {"type": "progress", "error": ERROR},
]


def test_a_malformed_event_changes_nothing(api: FlaskClient, worker: Worker) -> None:
    worker.report("started")
    before = job_of(api, worker)
    headers = {"Authorization": f"Bearer {worker.delivery['events']['token']}"}
    for wrong in WRONG:
        event = {"type": "started", "claim_id": CLAIM, **wrong}
        response = worker.client.post(worker.events, json=event, headers=headers)
        document = assert_problem(response, 422, "validation_failed")
        assert all(isinstance(reasons, list) for reasons in document["errors"].values())
    assert_problem(worker.report("failed", error={**ERROR, "message": "\ud800"}), 400, "malformed_body")
    assert job_of(api, worker) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 90_000, b'{"claim_id": "\\ud800-123456"}'])
def test_a_body_that_is_not_an_event_is_refused(worker: Worker, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {worker.delivery['events']['token']}"}
    response = worker.client.post(worker.events, data=body, headers=headers, content_type="application/json")
    assert response.status_code in {400, 422}


def test_a_huge_event_is_refused(worker: Worker) -> None:
    assert_problem(worker.report("started", more="x" * 1_000_000), 413, "payload_too_large")


def test_unknown_fields_of_a_newer_worker_are_ignored(api: FlaskClient, worker: Worker) -> None:
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


def test_a_removed_attempt_is_superseded(worker: Worker, services: Gateway) -> None:
    with services.store._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM attempts")
        connection.exec_driver_sql("DELETE FROM jobs")
    for type_, event in EVENTS.items():
        assert_problem(worker.report(type_, **event), 409, "attempt_superseded")
    assert_problem(worker.put(), 409, "attempt_superseded")

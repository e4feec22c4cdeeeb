"""`POST /events/<attempt>`: what workers report, and the responses to it.

What each event changes is in `tests/gateway/dispatch/test_reports.py`, tokens are in `test_foreign_tokens.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.gateway.api.conftest import VIDEO, Worker, assert_problem
from tests.gateway.conftest import CLAIM
from wire.errors import CODES

OTHER = "claim-of-worker-2"
ERROR = {"code": "asset_not_found", "message": "The URL answered 404.", "retryable": False}


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


@pytest.mark.parametrize("code", ["asset_not_found", "from_a_newer_worker"])
def test_a_fault_of_the_job_fails_it_with_code_and_message(api: FlaskClient, worker: Worker, code: str) -> None:
    worker.report("started")
    assert worker.report("failed", error={**ERROR, "code": code}).status_code == 200
    job = job_of(api, worker)
    shown = code if code in CODES else "worker_error"
    assert (job["status"], job["error"]) == ("failed", {"code": shown, "message": ERROR["message"]})


# One of each kind; all rules are in `tests/wire/test_envelope.py`.
WRONG: list[dict[str, Any]] = [
    *({"type": type_} for type_ in ("paused", None, "completed", "failed")),
    {"claim_id": "short"},
    *({"type": "progress", "progress": value} for value in (1.1, float("nan"))),
    {"type": "completed", "result": []},
    {"type": "started", "result": {"outputs": {}, "stats": {}}},
    {"type": "failed", "error": {"code": "Not A Code", "message": "", "retryable": True}},
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

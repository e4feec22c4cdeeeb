"""No stranger gets in: every route, every way of having no valid key."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION, Worker, assert_problem, local
from tests.gateway.conftest import FixedClock, Key

# Written down here a second time on purpose: a new route is closed until somebody opens it in both places.
PUBLIC = {"/", "/docs", "/docs/", "/docs/<path:path>", "/openapi.json", "/health", "/ready"}
OWN_CREDENTIAL = {"/files/<path:key>", "/events/<attempt_id>"}
UNKNOWN = [
    "/nothing",
    "/admin",
    "/jobs/",
    "/jobs/x/y",
    "/video",
    "/video/",
    "/video/unknown",
    "/video/caption/",
    "/files/",
    "/.env",
    "/%00",
    "/..%2f..%2fetc%2fpasswd",
    "//jobs",
    "/JOBS",
    "/static/x",
    "/metrics/x",
    "/é",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def closed_calls(app: Flask) -> Iterator[tuple[str, str]]:
    """(method, path) of everything that needs an API key."""
    for rule in app.url_map.iter_rules():
        if rule.rule not in PUBLIC | OWN_CREDENTIAL:
            path = re.sub("<[^>]+>", "job_01HF7YAT00M3XH5S9QHW1K2YB4", rule.rule)
            yield from ((method, path) for method in rule.methods or ())
    yield from ((method, path) for path in UNKNOWN for method in METHODS)


def no_keys(key: Key, revoked: str) -> list[dict[str, str]]:
    """Headers of callers that must not get in."""
    good = key.secret
    return [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": " "},
        {"X-API-Key": revoked},
        {"X-API-Key": good[:-1]},
        {"X-API-Key": good + "x"},
        {"X-API-Key": good.swapcase()},
        {"X-API-Key": f"{good},{good}"},
        {"X-API-Key": f"Bearer {good}"},
        {"X-API-Key": key.record.secret_sha256},
        {"X-API-Key": key.record.id},
        {"X-API-Key": "x" * 8000},
        {"X-API-Key": "schlüssel-ÿ-der-nicht-passt"},
        {"X-API-Key": "' OR 1=1 --"},
        {"Authorization": f"Bearer {good}"},
        {"Authorization": good},
        {"X-Api-Token": good},
        {"Api-Key": good},
        {"Cookie": f"X-API-Key={good}; api_key={good}"},
    ]


def test_every_closed_route_refuses_everybody_without_a_valid_key(
    app: Flask, client: FlaskClient, services: Services, key: Key
) -> None:
    record, revoked = services.keys.create("revoked")
    services.keys.revoke(record.id)
    calls = list(closed_calls(app))
    assert {"/jobs", "/files", "/video/caption"} <= {path for _, path in calls}
    let_in = [
        (method, path, headers, status)
        for headers in no_keys(key, revoked)
        for method, path in calls
        if (status := client.open(path, method=method, headers=headers).status_code) != 401
    ]
    # Prometheus has no header of its own for keys.
    scraping = [call for call in let_in if call[0] in {"GET", "HEAD", "OPTIONS"} and call[1] == "/metrics"]
    assert let_in == scraping
    assert all(headers == {"Authorization": f"Bearer {key.secret}"} for _, _, headers, _ in scraping)


def test_the_refusal_is_a_problem_document(client: FlaskClient) -> None:
    assert_problem(client.get("/jobs"), 401, "unauthorized")
    assert_problem(client.post("/video/caption", json=CAPTION), 401, "unauthorized")
    assert_problem(client.get("/no/such/path"), 401, "unauthorized")


def test_a_key_in_the_query_does_not_open(client: FlaskClient, api_key: str) -> None:
    for name in ("X-API-Key", "x_api_key", "api_key", "key"):
        assert_problem(client.get(f"/jobs?{name}={api_key}"), 401, "unauthorized")


def test_a_key_opens_until_it_is_revoked(api: FlaskClient, services: Services, key: Key) -> None:
    assert api.get("/jobs").status_code == 200
    services.keys.revoke(key.record.id)
    assert_problem(api.get("/jobs"), 401, "unauthorized")


def test_with_a_key_unknown_paths_are_not_found(api: FlaskClient) -> None:
    for path in UNKNOWN:
        for method in METHODS:
            assert api.open(path, method=method).status_code in {404, 405, 308}, (method, path)


def test_no_route_fails_for_a_valid_key_either(app: Flask, api: FlaskClient) -> None:
    statuses = {call: api.open(call[1], method=call[0]).status_code for call in closed_calls(app)}
    assert [call for call, status in statuses.items() if status >= 500] == []


@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/docs/", "/", "/docs"])
def test_public_pages_need_no_key(client: FlaskClient, path: str) -> None:
    assert client.get(path, follow_redirects=True).status_code == 200


def test_a_wrong_method_on_a_public_page_needs_a_key(client: FlaskClient, api: FlaskClient) -> None:
    assert_problem(client.post("/health"), 401, "unauthorized")
    assert_problem(api.post("/health"), 405, "method_not_allowed")


def test_another_clients_job_is_not_there(api: FlaskClient, stranger: FlaskClient) -> None:
    job = api.post("/video/caption", json=CAPTION).get_json()
    assert_problem(stranger.get(f"/jobs/{job['jobId']}"), 404, "not_found")
    assert_problem(stranger.delete(f"/jobs/{job['jobId']}"), 404, "not_found")
    assert stranger.get("/jobs").get_json() == {"jobs": [], "nextCursor": None}
    assert api.get(f"/jobs/{job['jobId']}").get_json()["status"] == "queued"


def test_another_clients_cursor_shows_only_own_jobs(api: FlaskClient, stranger: FlaskClient) -> None:
    job = api.post("/video/caption", json=CAPTION).get_json()
    assert stranger.get(f"/jobs?cursor={job['jobId']}").get_json()["jobs"] == []


def test_an_api_key_opens_no_file(api: FlaskClient, worker: Worker) -> None:
    worker.finish()
    path = worker.upload.partition("?")[0]
    assert_problem(api.get(path), 403, "signature_invalid")
    assert_problem(api.put(path, data=b"x"), 403, "signature_invalid")


def test_a_signed_url_needs_no_api_key(api: FlaskClient, client: FlaskClient, worker: Worker) -> None:
    worker.finish()
    job = api.get(f"/jobs/{worker.job_id}").get_json()
    assert client.get(local(job["video_url"]), buffered=True).status_code == 200


def test_an_api_key_reports_no_event(api: FlaskClient, worker: Worker, api_key: str) -> None:
    event = {"type": "started", "claim_id": "claim-of-a-client"}
    assert_problem(api.post(worker.events, json=event), 401, "unauthorized")
    assert_problem(worker.report("started", token=api_key), 401, "unauthorized")


def test_a_token_opens_its_own_attempt_alone(worker: Worker, new_worker) -> None:  # type: ignore[no-untyped-def]
    other = new_worker()
    assert_problem(worker.report("started", token=other.delivery["events"]["token"]), 401, "unauthorized")
    assert worker.report("started").status_code == 200


def test_a_token_ends_with_its_attempt(worker: Worker, services: Services, clock: FixedClock) -> None:
    attempt = services.store.attempt(worker.attempt_id)
    assert attempt is not None
    clock.advance(attempt.deadline - clock.now_ms() - 1)
    assert worker.report("started").status_code == 200
    clock.advance(1)
    assert_problem(worker.report("started"), 401, "unauthorized")


def test_a_token_of_another_purpose_is_refused(worker: Worker, services: Services) -> None:
    attempt = services.store.attempt(worker.attempt_id)
    assert attempt is not None
    signature = worker.upload.partition("signature=")[2]
    same_value = services.signer.sign("something-else", [attempt.id, attempt.deadline])
    for token in (signature, same_value):
        assert_problem(worker.report("started", token=token), 401, "unauthorized")


def test_a_changed_token_is_refused(worker: Worker) -> None:
    token = worker.delivery["events"]["token"]
    payload, _, mac = token.rpartition(".")
    for changed in ("", ".", token[:-1], token + "A", f"{payload}.", f".{mac}", f"{payload}A.{mac}", "ÿ", "x" * 7000):
        assert_problem(worker.report("started", token=changed), 401, "unauthorized")


def test_an_event_without_a_token_is_refused_before_its_body_is_looked_at(client: FlaskClient, worker: Worker) -> None:
    assert_problem(client.post(worker.events, data=b"{broken"), 401, "unauthorized")
    assert_problem(client.post("/events/att_unknown", json={}), 401, "unauthorized")

"""Every route refuses every request without valid credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway.wiring import Services
from tests.gateway.api.conftest import Worker, assert_problem
from tests.gateway.conftest import Key

# Repeated here on purpose: a new route needs a key until it is named in both places.
PUBLIC = {"/", "/docs", "/docs/", "/docs/<path:name>", "/openapi.json", "/errors/<code>", "/health", "/ready"}
PUBLIC |= {"/openapi-worker.json", "/llms.txt", "/docs/<name>.md", "/samples/README.md", "/samples/<name>"}
OWN_CREDENTIAL = {"/files/<path:key>", "/allowed/files/<path:key>", "/events/<attempt_id>"}
UNKNOWN = [
    *["/nothing", "/admin", "/jobs/x/y", "/video", "/video/", "/video/unknown"],
    *["/.env", "/%00", "/..%2f..%2fetc%2fpasswd", "/JOBS", "/static/x", "/metrics/x", "/é"],
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
    """Headers without a valid key."""
    good = key.secret
    wrong = ["", " ", revoked, good[:-1], good + "x", good.swapcase(), f"{good},{good}", f"Bearer {good}"]
    wrong += [key.record.secret_sha256, key.record.id, "x" * 8000, "schlüssel-ÿ-der-nicht-passt", "' OR 1=1 --"]
    return [
        {},
        *({"X-API-Key": secret} for secret in wrong),
        {"Authorization": good},
        {"Authorization": f"Basic {good}"},
        {"Authorization": f"Bearer {good[:-1]}"},
        {"Authorization": f"Bearer {good} {good}"},
        {"Authorization": f"Bearer {good}", "X-API-Key": revoked},
        {"X-Api-Token": good},
        {"Api-Key": good},
        {"Cookie": f"X-API-Key={good}; api_key={good}"},
    ]


@pytest.mark.slow
def test_every_closed_route_refuses_requests_without_a_valid_key(
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
    assert let_in == []
    for path in ("/no/such/path", "/jobs", *(f"/jobs?{name}={key.secret}" for name in ("X-API-Key", "api_key", "key"))):
        assert_problem(client.get(path), 401, "unauthorized")
    for headers in ({"X-API-Key": key.secret}, {"Authorization": f"Bearer {key.secret}"}):
        assert client.get("/jobs", headers=headers).status_code == 200


def test_with_a_key_unknown_paths_are_not_found(api: FlaskClient) -> None:
    for path in UNKNOWN:
        for method in METHODS:
            assert api.open(path, method=method).status_code in {404, 405, 308}, (method, path)


def test_no_route_fails_for_a_valid_key_either(app: Flask, api: FlaskClient) -> None:
    statuses = {call: api.open(call[1], method=call[0]).status_code for call in closed_calls(app)}
    assert [call for call, status in statuses.items() if status >= 500] == []


PAGES = ["/docs/", "/", "/docs", "/docs/api.md", "/llms.txt", "/samples/photo.jpg"]


@pytest.mark.parametrize("path", ["/health", "/openapi.json", "/openapi-worker.json", *PAGES])
def test_public_pages_need_no_key(client: FlaskClient, path: str) -> None:
    assert client.get(path, follow_redirects=True, buffered=True).status_code == 200


def test_a_wrong_method_on_a_public_page_needs_a_key(client: FlaskClient, api: FlaskClient) -> None:
    assert_problem(client.post("/health"), 401, "unauthorized")
    assert_problem(api.post("/health"), 405, "method_not_allowed")


def test_an_api_key_opens_no_file(api: FlaskClient, worker: Worker) -> None:
    worker.finish()
    path = worker.upload.partition("?")[0]
    assert_problem(api.get(path), 403, "signature_invalid")
    assert_problem(api.put(path, data=b"x"), 403, "signature_invalid")


def test_an_api_key_reports_no_event(api: FlaskClient, worker: Worker, api_key: str) -> None:
    event = {"type": "started", "claim_id": "claim-of-a-client"}
    assert_problem(api.post(worker.events, json=event), 401, "unauthorized")
    assert_problem(worker.report("started", token=api_key), 401, "unauthorized")
    assert_problem(api.post(worker.events, data=b"{broken"), 401, "unauthorized")  # before the body is read
    assert_problem(api.post("/events/att_unknown", json={}), 401, "unauthorized")

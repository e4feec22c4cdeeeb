"""Scopes, rate limits and quotas over HTTP, on every route."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ffmpeg_ops.operation import OPERATIONS
from gateway import create_app
from gateway.access.keys import SCOPES, make_secret
from gateway.access.turns import Turn
from gateway.api.callers import SCOPE_OF, needs_key
from gateway.domain.jobs import Job
from tests.gateway.api.conftest import CAPTION, VIDEO, Worker, assert_problem
from tests.gateway.conftest import Gateway, Key, Wire

Limited = Callable[..., FlaskClient]
JOB = "job_01HF7YAT00M3XH5S9QHW1K2YB4"
HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def limited(app: Flask, wire: Wire, key: Key) -> Limited:
    """A client whose gateway has these limits."""

    def make(**limits: Any) -> FlaskClient:
        app.extensions["reelay"] = wire(**limits)
        return app.test_client()

    return make


def get(
    client: FlaskClient, path: str = "/jobs", *, key: str | None = None, at: str = HERE, **headers: str
) -> TestResponse:
    headers |= {"X-API-Key": key} if key else {}
    return client.get(path, headers=headers, environ_overrides={"REMOTE_ADDR": at})


def statuses(client: FlaskClient, count: int, **call: Any) -> list[int]:
    return [get(client, **call).status_code for _ in range(count)]


def calls(app: Flask) -> Iterator[tuple[str, str, str]]:
    """(endpoint, method, path) of all that needs a key."""
    for rule in app.url_map.iter_rules():
        if needs_key(rule.endpoint):
            path = re.sub("<[^>]+>", JOB, rule.rule)
            yield from ((rule.endpoint, method, path) for method in sorted(rule.methods or ()))


# --- scopes -----------------------------------------------------------------------------------------------------------


def test_every_route_needs_its_scope(app: Flask, client: FlaskClient, services: Gateway) -> None:
    # Repeated here on purpose: a new route needs `admin` until it is named in both places.
    wanted = {"/metrics": "metrics", "/jobs": "jobs", "/video": "jobs", "/files": "jobs", "/allowed": "jobs"}
    secrets = {scope: services.keys.create(scope, (scope,))[1] for scope in SCOPES}
    none = services.keys.create("none", ())[1]
    seen = set()
    for _, method, path in calls(app):
        scope = wanted[re.match("/[a-z]+", path)[0]]  # type: ignore[index]
        for mine, secret in secrets.items():
            response = client.open(path, method=method, headers={"X-API-Key": secret})
            assert (response.status_code == 403) == (mine not in {scope, "admin"}), (method, path, mine)
        assert client.open(path, method=method).status_code == 401
        assert client.open(path, method=method, headers={"X-API-Key": none}).status_code == 403
        seen.add(scope)
    assert seen == {"jobs", "metrics"}


def test_a_new_route_needs_admin(app: Flask, client: FlaskClient, services: Gateway) -> None:
    app.add_url_rule("/new", "new.New", lambda: "secret")
    assert "new" not in SCOPE_OF
    for scopes, status in ((("jobs", "metrics"), 403), (("admin",), 200)):
        secret = services.keys.create("x", scopes)[1]
        assert client.get("/new", headers={"X-API-Key": secret}).status_code == status


def test_the_refusal_names_the_scope_and_reads_no_body(client: FlaskClient, services: Gateway) -> None:
    secret = services.keys.create("prometheus", ("metrics",))[1]
    response = client.post("/video/caption", data=b"{broken", headers={"X-API-Key": secret})
    assert "`jobs`" in assert_problem(response, 403, "missing_scope")["detail"]
    bearer = {"Authorization": f"Bearer {services.keys.create('n8n')[1]}"}
    assert "`metrics`" in assert_problem(client.get("/metrics", headers=bearer), 403, "missing_scope")["detail"]


# --- what belongs to a key --------------------------------------------------------------------------------------------


def test_another_key_s_job_is_not_found_on_any_route(
    app: Flask, api: FlaskClient, other_client: FlaskClient, services: Gateway, worker: Worker
) -> None:
    worker.finish()
    tried = []
    for _, method, path in calls(app):
        if JOB in path and method != "OPTIONS":
            theirs = other_client.open(path.replace(JOB, worker.job_id), method=method)
            nothing = other_client.open(path, method=method)
            assert (theirs.status_code, nothing.status_code) == (404, 404), (method, path)
            assert _without_id(theirs) == _without_id(nothing), "the response does not reveal that the job exists"
            tried.append(method)
    assert sorted(tried) == ["DELETE", "GET", "HEAD", "POST"]
    for query in ("", f"?cursor={worker.job_id}"):
        assert other_client.get(f"/jobs{query}").get_json() == {"jobs": [], "nextCursor": None}
    assert services.store.job(worker.job_id).status == "completed"  # type: ignore[union-attr]
    admin = services.keys.create("admin", ("admin",))[1]
    assert_problem(get(api, f"/jobs/{worker.job_id}", key=admin), 404, "not_found")


def _without_id(response: TestResponse) -> dict[str, Any]:
    return {**(response.get_json(silent=True) or {}), "requestId": None}


def test_a_rotated_key_keeps_its_jobs_and_idempotency_keys(client: FlaskClient, services: Gateway, key: Key) -> None:
    headers = {"X-API-Key": key.secret, "Idempotency-Key": "order 7"}
    job = client.post("/video/caption", json=CAPTION, headers=headers).get_json()
    _, new = services.keys.rotate(key.record.id, 1000) or (None, "")
    for secret in (key.secret, new):
        assert get(client, f"/jobs/{job['jobId']}", key=secret).status_code == 202
        again = client.post("/video/caption", json=CAPTION, headers={**headers, "X-API-Key": secret})
        assert again.get_json()["jobId"] == job["jobId"]
    services.clock.advance(1000)
    assert_problem(get(client, key=key.secret), 401, "unauthorized")


# --- failed keys --------------------------------------------------------------------------------------------------------


def test_a_mistyped_key_is_reported_as_such(client: FlaskClient, services: Gateway, key: Key) -> None:
    typed = key.secret[:20] + ("x" if key.secret[20] != "x" else "y") + key.secret[21:]
    assert "mistyped" in assert_problem(get(client, key=typed), 401, "unauthorized")["detail"]
    for secret in (make_secret(), "x" * 49):
        assert "detail" not in assert_problem(get(client, key=secret), 401, "unauthorized")


def test_failed_keys_are_limited_per_address(
    limited: Limited, app: Flask, key: Key, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = limited(failed_keys_per_address=5)
    scraper = services.keys.create("prometheus", ("metrics",))[1]
    assert statuses(client, 8, key=scraper) == [403] * 8, "a missing scope is no failed key"
    services.clock.advance(60_000)
    assert statuses(client, 8, key=make_secret()) == [401] * 5 + [429] * 3
    assert_problem(get(client), 429, "rate_limited")
    with monkeypatch.context() as patch:
        patch.setattr(app.extensions["reelay"].store, "api_key_by_hash", lambda digest: pytest.fail("was queried"))
        assert get(client, key=key.secret).status_code == 429, "valid keys are not looked up either"
    assert get(client, key=key.secret, at=THERE).status_code == 200
    assert get(client, "/health").status_code == 200
    services.clock.advance(60_000)
    assert get(client, key=key.secret).status_code == 200


def test_failed_keys_do_not_lock_out_a_recently_valid_key_of_the_same_address(
    limited: Limited, app: Flask, key: Key
) -> None:
    client = limited(failed_keys_per_address=3)
    assert get(client, key=key.secret).status_code == 200
    assert statuses(client, 5, key=make_secret()) == [401] * 3 + [429] * 2
    assert statuses(client, 5, key=key.secret) == [200] * 5
    app.extensions["reelay"].keys.revoke(key.record.id)
    assert statuses(client, 2, key=key.secret) == [429] * 2


def test_forged_addresses_are_ignored(limited: Limited) -> None:
    client = limited(failed_keys_per_address=3)
    forged = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "CF-Connecting-IP", "True-Client-IP")
    seen = [get(client, **dict.fromkeys(forged, f"203.0.113.{i}")).status_code for i in range(6)]
    assert seen == [401] * 3 + [429] * 3
    assert get(client, at=THERE, **{"X-Forwarded-For": HERE}).status_code == 401


def test_public_pages_are_limited_per_address_but_never_health(limited: Limited) -> None:
    client = limited(rate_limit_per_address=3)
    assert statuses(client, 5, path="/openapi.json") == [200] * 3 + [429] * 2
    assert get(client, "/ready").status_code == 429
    assert get(client, "/openapi.json", at=THERE).status_code == 200
    assert statuses(client, 10, path="/health") == [200] * 10


def test_workers_are_not_rate_limited(limited: Limited, worker: Worker, app: Flask) -> None:
    limited(rate_limit_per_address=1, failed_keys_per_address=1, rate_limit_per_key=1)
    assert [worker.report("started", token="wrong").status_code for _ in range(3)] == [401] * 3
    assert [worker.report("started").status_code for _ in range(5)] == [200] * 5
    assert worker.put().status_code == 201


# --- rates of a key ---------------------------------------------------------------------------------------------------


def test_a_key_sees_its_remaining_requests_and_when_to_retry(services: Gateway, limited: Limited, key: Key) -> None:
    client = limited(rate_limit_per_key=2)
    left = [dict(get(client, key=key.secret).headers) for _ in range(2)]
    assert [(h["RateLimit-Limit"], h["RateLimit-Remaining"]) for h in left] == [("2", "1"), ("2", "0")]
    response = get(client, key=key.secret)
    assert_problem(response, 429, "rate_limited")
    reset_s = response.headers["RateLimit-Reset"]
    assert (response.headers["Retry-After"], response.headers["RateLimit-Remaining"]) == (reset_s, "0")
    assert 0 < int(reset_s) <= 60
    services.clock.advance(int(reset_s) * 1000)
    assert get(client, key=key.secret).status_code == 200


def test_every_route_counts_towards_the_limit_of_its_key_alone(
    limited: Limited, app: Flask, key: Key, services: Gateway
) -> None:
    client = limited(rate_limit_per_key=1)
    get(client, key=key.secret)
    for _, method, path in [*calls(app), ("", "GET", "/nothing")]:
        assert client.open(path, method=method, headers={"X-API-Key": key.secret}).status_code == 429, (method, path)
    assert get(client, key=services.keys.create("other")[1]).status_code == 200


def test_both_secrets_of_a_key_share_one_limit(limited: Limited, key: Key, services: Gateway) -> None:
    client = limited(rate_limit_per_key=2)
    _, new = services.keys.rotate(key.record.id, 1000) or (None, "")
    answers = [get(client, key=secret).status_code for secret in (key.secret, new, new, key.secret)]
    assert answers == [200, 200, 429, 429]


# --- jobs and money ---------------------------------------------------------------------------------------------------


def test_exceeded_quotas_are_429_and_402_and_reading_goes_on(limited: Limited, key: Key, app: Flask) -> None:
    client = limited(daily_spending_limit_usd=Decimal(1), max_jobs_per_key=1)
    here = app.extensions["reelay"]
    post = {"json": CAPTION, "headers": {"X-API-Key": key.secret}}
    job = client.post("/video/caption", **post)
    assert job.status_code == 202
    response = client.post("/video/caption", **post)
    assert_problem(response, 429, "too_many_jobs")
    assert response.headers["Retry-After"] == "10"
    client.delete(job.headers["Location"], headers=post["headers"])
    here.store.together(lambda tx: tx.spend(key.record.id, 1_000_000_000, here.clock.now_ms()))
    response = client.post("/video/caption", **post)
    assert_problem(response, 402, "spending_limit")
    assert 0 < int(response.headers["Retry-After"]) <= 86_400
    assert get(client, key=key.secret).status_code == 200


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"/video/{name}" for name in OPERATIONS])
def test_bodies_that_are_too_deep_or_too_wide_are_refused(api: FlaskClient, path: str) -> None:
    def nested(levels: int, opening: str, closing: str) -> bytes:
        return f'{{"url_video": {opening * (levels - 1)}1{closing * (levels - 1)}}}'.encode()

    for opening, closing in (("[", "]"), ('{"a":', "}")):
        ok = api.post(path, data=nested(16, opening, closing), content_type="application/json")
        assert_problem(ok, 422, "validation_failed")
        for levels in (17, 500):
            deep = api.post(path, data=nested(levels, opening, closing), content_type="application/json")
            assert_problem(deep, 400, "body_too_complex")
    for number, status, code in ((100, 422, "validation_failed"), (101, 400, "body_too_complex")):
        assert_problem(api.post(path, json={f"f{i}": 1 for i in range(number)}), status, code)
        assert_problem(api.post(path, json={"style": [{f"f{i}": 1 for i in range(number)}]}), status, code)


def test_long_lists_are_accepted_and_their_errors_limited(api: FlaskClient) -> None:
    words = [{"word": "a", "start": i, "end": i + 1} for i in range(5000)]
    body = {"url_video": "https://example.com/v.mp4", "words": words}
    assert api.post("/video/caption", json=body).status_code == 202
    body["words"] = [{"word": 1} for _ in range(20_000)]
    response = api.post("/video/caption", json=body)
    document = assert_problem(response, 422, "validation_failed")
    assert 0 < len(document["errors"]) <= 100
    assert len(response.data) < 30_000


def test_the_largest_body_is_a_setting(app: Flask, key: Key) -> None:
    small = create_app(replace(app.extensions["reelay"].settings, max_body_bytes=1000))
    small.extensions["reelay"] = app.extensions["reelay"]
    headers = {"X-API-Key": key.secret}
    body = CAPTION | {"subtitles": "x" * 1000}
    assert_problem(small.test_client().post("/video/caption", json=body, headers=headers), 413, "payload_too_large")
    assert small.test_client().post("/video/caption", json=CAPTION, headers=headers).status_code == 202


# --- turns ------------------------------------------------------------------------------------------------------------


def test_requests_with_one_key_take_turns_and_those_of_others_do_not_wait(
    services: Gateway, api: FlaskClient, other_client: FlaskClient
) -> None:
    turns, key_id = services.thread_limits.turns, services.keys.list()[0].id
    held = [Turn(turns, key_id) for _ in range(services.settings.threads // 8)]
    for turn in held:
        turn.wait()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(api.get, "/jobs")
        assert other_client.get("/jobs").status_code == 200
        assert not waits.done()
        held.pop().end()
        assert waits.result(30).status_code == 200
    for turn in held:
        turn.end()
    assert not turns._turns


def test_every_response_gives_the_turn_back(services: Gateway, api: FlaskClient) -> None:
    bodies = ({"json": CAPTION}, {"json": {}}, {"data": b"{"}, {"data": b"x" * 2_000_000})
    for body in bodies * services.settings.threads:
        api.post("/video/caption", **body)
        api.get(f"/jobs/{JOB}")
    assert not services.thread_limits.turns._turns


def test_a_request_that_creates_a_job_does_not_keep_its_turn(
    services: Gateway, api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that are created together share a commit."""
    create, held = services.jobs.create, []

    def look(*args: Any, **kwargs: Any) -> Job:
        held.append(dict(services.thread_limits.turns._turns))
        return create(*args, **kwargs)

    monkeypatch.setattr(services.jobs, "create", look)
    assert api.post("/video/caption", json=CAPTION).status_code == 202
    assert held == [{}]


# --- bytes on the disk ------------------------------------------------------------------------------------------------


def test_a_key_that_fills_its_share_of_the_disk_harms_no_other(limited: Limited, services: Gateway) -> None:
    """It is refused before a byte of its upload is read, and told what frees space; others go on."""
    client = limited(max_params_bytes_per_key=2_000, max_upload_bytes_per_key=8192)
    greedy, other = ({"X-API-Key": services.keys.create(name)[1]} for name in ("greedy", "other"))
    body = {"url_video": CAPTION["url_video"], "subtitles": "1\n00:00:01,000 --> 00:00:02,000\n" + "x" * 1200}
    assert client.post("/video/caption", json=body, headers=greedy).status_code == 202
    refused = assert_problem(client.post("/video/caption", json=body, headers=greedy), 429, "too_many_bytes")
    assert "MAX_PARAMS_BYTES_PER_KEY (2000)" in refused["detail"]
    for _ in range(2):
        assert client.post("/files", data=VIDEO, headers=greedy).status_code == 201
    refused = assert_problem(client.post("/files", data=VIDEO, headers=greedy), 429, "too_many_bytes")
    assert "MAX_UPLOAD_BYTES_PER_KEY (8192)" in refused["detail"]
    assert client.post("/video/caption", json=CAPTION, headers=greedy).status_code == 202, "a small one fits"
    assert client.post("/video/caption", json=body, headers=other).status_code == 202
    assert client.post("/files", data=VIDEO, headers=other).status_code == 201
    assert len([path for path in services.settings.files_dir.rglob("*") if path.is_file()]) == 3


@pytest.mark.parametrize("data", [b"no media at all", b""])
def test_a_refused_upload_takes_no_bytes(limited: Limited, key: Key, data: bytes) -> None:
    client = limited(max_upload_bytes_per_key=8192)
    for _ in range(5):
        assert client.post("/files", data=data, headers={"X-API-Key": key.secret}).status_code in {411, 415}
    for _ in range(2):
        assert client.post("/files", data=VIDEO, headers={"X-API-Key": key.secret}).status_code == 201

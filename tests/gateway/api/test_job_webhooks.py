"""`webhook_url`, the webhook in the job, and `POST /jobs/<id>/webhook`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION, Worker, assert_problem
from tests.gateway.api.test_operation_routes import INVALID_URLS, refused_field
from tests.gateway.conftest import Gateway, Wire
from tests.servers import FileServer, Reply

HOOK = {**CAPTION, "webhook_url": "https://example.com/hook"}


@pytest.fixture
def services(wire: Wire, files: FileServer) -> Services:
    return wire(webhook_allow_origins=(files.origin,))


def post(api: FlaskClient, **changes: Any) -> dict[str, Any]:
    response = api.post("/video/caption", json={**HOOK, **changes})
    assert response.status_code == 202, response.get_data(as_text=True)
    return response.get_json()  # type: ignore[no-any-return]


def log_of(api: FlaskClient, job_id: str) -> dict[str, Any]:
    return api.get(f"/jobs/{job_id}").get_json()["webhook"]  # type: ignore[no-any-return]


# webhook_url


def test_a_job_shows_its_webhook_url_without_secrets(api: FlaskClient) -> None:
    job = post(api, webhook_url="https://me:hunter2@example.com:8443/hook/7?token=hunter2#hunter2")
    assert job["webhook"] == {"url": "https://example.com:8443/hook/7", "status": "pending", "tries": 0}
    assert "hunter2" not in api.get("/jobs").get_data(as_text=True)


def test_the_url_is_no_param(api: FlaskClient, services: Gateway) -> None:
    job = services.store.job(post(api)["jobId"])
    assert (json.loads(services.store.params(job.id)), job.webhook_url) == (CAPTION, HOOK["webhook_url"])


def test_an_invalid_url_is_refused(api: FlaskClient, services: Gateway) -> None:
    invalid = [url for url in INVALID_URLS if url is not None and str(url).strip()]
    for url in [*invalid, "https://example.com:99999/", f"https://example.com/{'x' * 4096}"]:
        refused_field(api, "caption", {**CAPTION, "webhook_url": url}, "webhook_url")
    assert api.get("/jobs").get_json()["jobs"] == []


def test_blanks_around_the_url_are_cut(api: FlaskClient, services: Gateway) -> None:
    job = services.store.job(post(api, webhook_url=" https://example.com/a hook\n")["jobId"])
    assert job.webhook_url == "https://example.com/a%20hook"


def test_an_inside_address_is_refused_with_the_name_of_the_setting(api: FlaskClient, app: Flask, wire: Wire) -> None:
    inside = {**CAPTION, "webhook_url": "http://127.0.0.1:5678/hook"}
    (reason,) = refused_field(api, "caption", inside, "webhook_url")
    assert "WEBHOOK_ALLOW_ORIGINS" in reason
    app.extensions["reelay"] = wire(webhook_allow_origins=("http://127.0.0.1:5678",))
    assert api.post("/video/caption", json=inside).status_code == 202


def test_a_host_of_any_length_does_not_keep_a_job_from_ending(api: FlaskClient, services: Gateway) -> None:
    job = post(api, webhook_url=f"https://{'.'.join(['x' * 50] * 40)}.example.com/")
    assert api.delete(f"/jobs/{job['jobId']}").get_json()["status"] == "cancelled"
    assert len(services.store.webhooks([job["jobId"]])[job["jobId"]].host) == 255


@pytest.mark.parametrize("other", [CAPTION, {**HOOK, "webhook_url": "https://example.com/other"}])
def test_another_url_is_another_request(api: FlaskClient, other: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "a"}
    first = api.post("/video/caption", json=HOOK, headers=headers).get_json()
    again = api.post("/video/caption", json=dict(reversed(HOOK.items())), headers=headers).get_json()
    assert first == again
    assert_problem(api.post("/video/caption", json=other, headers=headers), 422, "idempotency_mismatch")


def test_the_outcome_of_a_try_is_in_the_job(api: FlaskClient, services: Gateway, files: FileServer) -> None:
    files.routes["/hook"] = Reply(500)
    job = post(api, webhook_url=files.url("/hook"))
    api.delete(f"/jobs/{job['jobId']}")
    services.turn()
    log = log_of(api, job["jobId"])
    assert log == {
        "url": files.url("/hook"),
        "status": "pending",
        "tries": 1,
        "id": f"wh_{job['jobId'][4:]}",
        "lastTryAt": "2023-11-14T22:13:20.000Z",
        "lastStatusCode": 500,
        "nextTryAt": log["nextTryAt"],
    }
    assert "2023-11-14T22:13:24" < log["nextTryAt"] < "2023-11-14T22:13:26"
    assert api.get("/jobs").get_json()["jobs"][0]["webhook"] == log
    assert api.delete(f"/jobs/{job['jobId']}").get_json()["webhook"] == log
    assert headers_of(files, 0)["webhook-id"] == log["id"]


def headers_of(files: FileServer, number: int) -> dict[str, str]:
    return {name.lower(): value for name, value in files.requests[number].headers.items()}


def test_the_webhook_has_the_reference_and_the_order_of_the_job(
    api: FlaskClient, services: Gateway, files: FileServer
) -> None:
    files.routes["/hook"] = Reply(200)
    job = post(api, webhook_url=files.url("/hook"), reference="order-7")
    job = api.delete(f"/jobs/{job['jobId']}").get_json()
    services.turn()
    sent = json.loads(files.requests[0].body)["data"]
    assert sent["reference"] == "order-7"
    assert list(sent) == [name for name in job if name in sent]


# POST /jobs/<id>/webhook


def test_a_replay_sends_the_webhook_again_with_the_same_id(
    api: FlaskClient, services: Gateway, files: FileServer
) -> None:
    answers = iter([Reply(410), Reply(500)])
    files.routes["/hook"] = lambda _: next(answers)
    job_id = post(api, webhook_url=files.url("/hook"))["jobId"]
    api.delete(f"/jobs/{job_id}")
    services.turn()
    assert log_of(api, job_id)["status"] == "failed"
    services.clock.advance(3_600_000)
    response = api.post(f"/jobs/{job_id}/webhook")
    assert response.status_code == 202
    assert response.get_json()["webhook"] == {**log_of(api, job_id), "status": "pending", "tries": 0}
    assert response.get_json()["webhook"]["nextTryAt"] == "2023-11-14T23:13:20.000Z"
    services.turn()
    services.turn()
    assert len(files.requests) == 2
    assert headers_of(files, 0)["webhook-id"] == headers_of(files, 1)["webhook-id"]
    assert headers_of(files, 0)["webhook-timestamp"] != headers_of(files, 1)["webhook-timestamp"]
    log = log_of(api, job_id)
    assert (log["status"], log["tries"], log["lastStatusCode"]) == ("pending", 1, 500), "the schedule starts again"


def test_only_the_webhook_of_an_own_ended_job_can_be_replayed(
    api: FlaskClient, other_client: FlaskClient, services: Gateway, worker: Worker
) -> None:
    worker.finish()
    assert_problem(api.post(f"/jobs/{worker.job_id}/webhook"), 409, "no_webhook")
    job_id = post(api)["jobId"]
    assert_problem(api.post(f"/jobs/{job_id}/webhook"), 409, "job_not_finished")
    assert services.store.webhooks([job_id]) == {}
    api.delete(f"/jobs/{job_id}")
    assert_problem(other_client.post(f"/jobs/{job_id}/webhook"), 404, "not_found")
    assert_problem(api.post("/jobs/job_01HF7YAT00M3XH5S9QHW1K2YB4/webhook"), 404, "not_found")

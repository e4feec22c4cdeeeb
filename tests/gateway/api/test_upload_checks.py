"""`/allowed/files` refuses whatever `/files` would refuse by its headers, and stores nothing."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.gateway.api.conftest import VIDEO, Worker
from tests.gateway.conftest import Gateway


def asked(client: FlaskClient, path: str, length: object = len(VIDEO), **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/allowed{path}", headers={"X-Body-Length": str(length), **named})


def test_an_upload_with_a_key_is_allowed(api: FlaskClient, client: FlaskClient) -> None:
    assert asked(api, "/files").status_code == 204
    assert asked(client, "/files").status_code == 401


def test_an_output_is_allowed_until_its_attempt_ends(api: FlaskClient, worker: Worker) -> None:
    assert asked(worker.client, worker.upload).status_code == 204
    assert asked(worker.client, f"{worker.upload}x").status_code == 403
    api.delete(f"/jobs/{worker.job_id}")
    assert asked(worker.client, worker.upload).status_code == 409


@pytest.mark.parametrize(("length", "status"), [("", 411), ("x", 411), ("0", 400), (10**12, 413)])
def test_a_length_that_would_be_refused_is_not_allowed(
    api: FlaskClient, worker: Worker, length: object, status: int
) -> None:
    assert asked(api, "/files", length).status_code == status
    assert asked(worker.client, worker.upload, length).status_code == status


def test_a_form_and_a_full_disk_are_not_allowed(
    api: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked(api, "/files", Content_Type="multipart/mixed; boundary=x").status_code == 415
    monkeypatch.setattr(services.storage, "free_percent", lambda: -0.1)
    assert asked(api, "/files").status_code == 507


def test_no_check_stores_a_byte(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    for path in ("/files", worker.upload):
        api.get(f"/allowed{path}", data=VIDEO, headers={"X-Body-Length": str(len(VIDEO))})
    assert [path for path in services.settings.files_dir.rglob("*") if path.is_file()] == []

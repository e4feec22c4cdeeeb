"""Every error is a problem document that reveals nothing internal."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import default_exceptions

from gateway import errors as request_errors
from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION, assert_problem
from wire import errors

SECRET = "the inner detail: /srv/data password=hunter2"


def family(cls: type) -> list[type[request_errors.RequestError]]:
    return [child for direct in cls.__subclasses__() for child in (direct, *family(direct))]


def raising(app: Flask, error: BaseException) -> None:
    """Makes `GET /openapi.json` raise."""

    def view() -> Any:
        raise error

    app.view_functions["api-docs.openapi_json"] = view


def test_every_request_error_becomes_its_document(app: Flask, client: FlaskClient) -> None:
    for error in family(request_errors.RequestError):
        assert error.status in range(400, 600) and error.code and error.text
        refusal = error()
        refusal.detail = SECRET
        raising(app, refusal)
        response = client.get("/openapi.json")
        assert_problem(response, error.status, error.code)
        assert SECRET not in response.get_data(as_text=True)
        assert ("Retry-After" in response.headers) == (response.status_code in {503, 507})


def test_every_error_of_the_framework_becomes_a_document(app: Flask, client: FlaskClient) -> None:
    for error in default_exceptions.values():
        raising(app, error())
        response = client.get("/openapi.json")
        document = assert_problem(response, response.status_code, response.get_json()["code"])
        assert document["code"] in errors.CODES
        assert (response.status_code >= 500) == ((error.code or 400) >= 500)


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), OSError(5, SECRET), AssertionError(SECRET)])
def test_an_unexpected_error_is_logged_and_not_revealed(app: Flask, client: FlaskClient, error: Exception) -> None:
    raising(app, error)
    with structlog.testing.capture_logs() as logs:
        response = client.get("/openapi.json")
    document = assert_problem(response, 500, "internal_error")
    assert SECRET not in response.get_data(as_text=True)
    assert type(error).__name__ not in response.get_data(as_text=True)
    (line,) = [line for line in logs if line["event"] == "request.failed"]
    assert (line["log_level"], line["exc_info"]) == ("error", True)
    assert document["requestId"]


def test_a_database_error_is_logged_and_not_revealed(
    api: FlaskClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    with services.store._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
    with structlog.testing.capture_logs() as logs:
        response = api.get("/jobs")
    assert_problem(response, 503, "service_unavailable")
    assert "no such table" not in response.get_data(as_text=True)
    assert [line for line in logs if line["event"] == "database.failed" and "no such table" in line["error"]]


def test_a_wrong_method_lists_the_allowed_ones(api: FlaskClient) -> None:
    response = api.put("/jobs")
    assert_problem(response, 405, "method_not_allowed")
    assert {"GET", "HEAD"} <= set(response.headers["Allow"].split(", "))
    assert response.get_json()["detail"] == "It supports GET."
    assert api.get("/video/caption").get_json()["detail"] == "It supports POST."


def test_errors_are_never_html(api: FlaskClient) -> None:
    for path in ("/nothing", "/docs/nothing.js", "/jobs/x", "/files/x", "/docs/%2e%2e/x"):
        response = api.get(path, headers={"Accept": "text/html"})
        assert response.mimetype == "application/problem+json", path


# X-Request-Id


@pytest.mark.parametrize("given", ["order-1", "a" * 64, "01J/x:y z", "~"])
def test_a_request_id_is_kept(client: FlaskClient, given: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a" * 65, "ümlaut", "a\tb", "a\x7fb", "a\x1b[31m"])
def test_an_invalid_request_id_is_replaced(client: FlaskClient, given: str) -> None:
    made = client.get("/health", environ_overrides={"HTTP_X_REQUEST_ID": given}).headers["X-Request-Id"]
    assert made != given
    assert len(made) == 26


def test_every_response_has_its_own_request_id(api: FlaskClient) -> None:
    paths = ["/health", "/jobs", "/nothing", "/docs/", "/openapi.json", "/jobs/x", "/files/x", "/"]
    assert len({api.get(path, buffered=True).headers["X-Request-Id"] for path in paths}) == len(paths)


def test_the_log_carries_the_request_id_and_no_secret(api: FlaskClient, api_key: str) -> None:
    capture = structlog.testing.LogCapture()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, capture])
    try:
        api.post("/video/caption?wait=0", json=CAPTION, headers={"X-Request-Id": "order-1"})
    finally:
        structlog.reset_defaults()
    assert {line["request_id"] for line in capture.entries} == {"order-1"}
    assert {"job.created", "request.handled"} <= {line["event"] for line in capture.entries}
    assert api_key not in str(capture.entries)

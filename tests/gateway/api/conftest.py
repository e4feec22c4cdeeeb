"""Fixtures for the HTTP API: clients with keys, and a job whose worker has what the gateway handed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from gateway.wiring import Services
from tests.gateway.api.documented import Documented
from tests.gateway.conftest import CLAIM, FakeProvider, Gateway

CAPTION = {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}
VIDEO = b"\0\0\0\x18ftypmp42" + b"a finished video " * 64


def local(url: str) -> str:
    """Path and query of a URL that the gateway handed out."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Assert that the response is a complete problem document. Returns the document."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/problem+json"
    document = response.get_json()
    assert document["code"] == code
    assert document["status"] == status
    assert document["type"] == f"/errors/{code}"
    assert document["title"]
    assert document["requestId"] == response.headers["X-Request-Id"]
    return document  # type: ignore[no-any-return]


def documented_paths(client: FlaskClient) -> dict[str, dict[str, Any]]:
    """The items of `paths` in the documents for clients and for workers together."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("openapi", "openapi-worker"):
        for path, item in client.get(f"/{name}.json").get_json()["paths"].items():
            found[path] = found.get(path, {}) | item
    return found


@dataclass(frozen=True)
class Worker:
    """A worker that was handed an attempt: it knows what `delivery` says and nothing else."""

    client: FlaskClient
    job_id: str
    delivery: Mapping[str, Any]

    @property
    def attempt_id(self) -> str:
        return str(self.delivery["attempt_id"])

    @property
    def events(self) -> str:
        return local(self.delivery["events"]["url"])

    def upload_of(self, name: str) -> str:
        return local(self.delivery["uploads"][name]["url"])

    @property
    def upload(self) -> str:
        return self.upload_of("video")

    def put(self, body: bytes = VIDEO, name: str = "video") -> TestResponse:
        return self.client.put(self.upload_of(name), data=body)

    def report(self, type_: str, *, claim_id: str = CLAIM, token: str | None = None, **event: Any) -> TestResponse:
        token = self.delivery["events"]["token"] if token is None else token
        headers = {"Authorization": f"Bearer {token}"}
        return self.client.post(self.events, json={"type": type_, "claim_id": claim_id, **event}, headers=headers)

    def complete(self, body: bytes = VIDEO, **kwargs: Any) -> TestResponse:
        stats = {"size_bytes": len(body), "duration_s": 2.0, "encoder": "libx264"}
        result = {"outputs": {"video": {"size_bytes": max(1, len(body))}}, "stats": stats}
        return self.report("completed", result=result, **kwargs)

    def finish(self) -> None:
        """Claim, upload, report."""
        for response in (self.report("started"), self.put(), self.complete()):
            assert response.status_code < 300, response.get_data(as_text=True)


@pytest.fixture(scope="session")
def documented() -> list[Documented]:
    """Empty, or the documents of an application; those of all are alike."""
    return []


@pytest.fixture
def app(app: Flask, documented: list[Documented]) -> Flask:
    """The application; responses that are not documented fail the test."""
    if not documented:
        documented.append(Documented(app))

    def check(response: Response) -> Response:
        documented[0].check(response)
        return response

    app.after_request_funcs[None].insert(0, check)  # the last that is called
    return app


@pytest.fixture
def api(app: Flask, api_key: str) -> FlaskClient:
    """Sends the API key of `job_factory`'s client."""
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = api_key
    return client


@pytest.fixture
def other_client(app: Flask, services: Services) -> FlaskClient:
    """Sends a valid API key of another client."""
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = services.keys.create("other_client")[1]
    return client


@pytest.fixture
def new_worker(
    services: Gateway, provider: FakeProvider, api: FlaskClient, client: FlaskClient
) -> Callable[..., Worker]:
    """Creates a job over HTTP, submits it and returns its worker."""

    def make(operation: str = "caption", params: Mapping[str, Any] = CAPTION) -> Worker:
        job = api.post(f"/video/{operation}", json=params).get_json()
        services.turn()
        delivery = provider.inputs[-1]["delivery"]
        assert delivery["job_id"] == job["jobId"]
        return Worker(client, job["jobId"], delivery)

    return make


@pytest.fixture
def worker(new_worker: Callable[..., Worker]) -> Worker:
    return new_worker()

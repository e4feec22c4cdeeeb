"""The examples of the documents are valid, there is one of every response, and codes come from the table of codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ffmpeg_ops.operation import OPERATIONS
from gateway.domain.jobs import JobStatus
from tests.gateway.api.conftest import assert_problem
from tests.gateway.api.documented import DOCUMENTS, Documented, resolved
from tests.gateway.conftest import JobFactory
from wire.errors import CODES, JobError

METHODS = ("get", "put", "post", "delete")


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest, client: FlaskClient) -> dict[str, Any]:
    return client.get(f"/{request.param}.json").get_json()  # type: ignore[no-any-return]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All operations, callbacks too, with a name for messages."""
    items = document["paths"] | document["components"].get("pathItems", {})
    for path, item in items.items():
        yield from ((f"{method} {path}", item[method]) for method in METHODS if method in item)


def media(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content of every request and response."""
    for where, operation in operations(document):
        parts = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for name, part in parts.items():
            for kind, content in resolved(document, part).get("content", {}).items():
                yield f"{where} {name} {kind}", content


def test_every_response_has_an_example(document: dict[str, Any]) -> None:
    without = [where for where, content in media(document) if not content.get("examples")]
    # A file is no example.
    assert [where for where in without if "octet-stream" not in where and "multipart" not in where] == [
        where for where in without if where.startswith("post /events")
    ]


def test_every_example_fits_its_schema(app: Flask, document: dict[str, Any]) -> None:
    documented, seen = Documented(app), 0
    for where, content in media(document):
        for name, example in content.get("examples", {}).items():
            value = resolved(document, example)["value"]
            errors = list(documented.validator(document, content["schema"]).iter_errors(value))
            assert errors == [], (where, name, [error.message for error in errors])
            seen += 1
    assert seen >= 10
    for where, operation in operations(document):
        for parameter in operation.get("parameters", []):
            if "example" in parameter:
                assert documented.validator(document, parameter["schema"]).is_valid(parameter["example"]), where
    for name, header in document["components"]["headers"].items():
        assert documented.validator(document, header["schema"]).is_valid(header["example"]), name


def test_examples_of_an_operation_are_of_its_jobs(client: FlaskClient) -> None:
    paths = client.get("/openapi.json").get_json()["paths"]
    for operation in OPERATIONS.values():
        responses = paths[f"/video/{operation.name}"]["post"]["responses"]
        [queued] = responses["202"]["content"]["application/json"]["examples"].values()
        finished = responses["200"]["content"]["application/json"]["examples"]
        assert queued["value"]["operation"] == operation.name and queued["value"]["status"] == "queued"
        done = finished["completed"]["value"]
        params = operation.params().load(dict(operation.examples[0]))
        assert set(done.get("outputs", {})) == set(operation.outputs(params))
        assert ("result" in done) == bool(operation.result_example)
        assert finished["valid"]["value"]["params"] == operation.dump(params)


def test_codes_come_from_the_table_of_codes(client: FlaskClient) -> None:
    schemas = client.get("/openapi.json").get_json()["components"]["schemas"]
    assert schemas["Problem"]["properties"]["code"]["enum"] == sorted(CODES)
    of_jobs = sorted(code for code, cls in CODES.items() if issubclass(cls, JobError))
    assert schemas["JobError"]["properties"]["code"]["enum"] == of_jobs
    assert schemas["JobStats"]["properties"]["device"]["enum"] == ["cpu", "gpu"]


def test_a_code_of_a_newer_worker_is_shown_as_a_known_one(api: FlaskClient, job_factory: JobFactory) -> None:
    """A client that was generated with the codes of this release must be able to read the job."""
    job = job_factory(status=JobStatus.FAILED, error_code="flux_exhausted", error_message="The flux is exhausted.")
    shown = {"code": "worker_error", "message": "The flux is exhausted."}
    assert api.get(f"/jobs/{job.id}").get_json()["error"] == shown
    problem = assert_problem(api.get(f"/jobs/{job.id}?strict=true"), 502, "worker_error")
    assert problem["detail"] == "The flux is exhausted." and problem["job"]["error"] == shown

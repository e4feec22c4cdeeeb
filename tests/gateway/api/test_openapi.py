"""`/openapi.json` and `/openapi-worker.json` match the routes, and `/docs/` loads nothing from other hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from flask import Flask
from flask.testing import FlaskClient

from ffmpeg_ops.operation import OPERATIONS
from gateway import create_app
from gateway.settings import Settings
from gateway.webhooks import message
from tests.conftest import ROOT
from tests.gateway.api.conftest import CAPTION, VIDEO, Worker
from tests.gateway.conftest import Gateway, JobFactory

METHODS = {"get", "put", "post", "delete", "head", "options", "patch", "trace"}
UNDOCUMENTED = {"/", "/docs", "/docs/", "/docs/{name}", "/openapi.json", "/openapi-worker.json"}
UNDOCUMENTED |= {"/llms.txt", "/docs/{name}.md", "/samples/README.md", "/samples/{name}"}
UNDOCUMENTED |= {"/allowed/files", "/allowed/files/{key}"}
OUTPUT = "/files/outputs/{job_id}/{attempt_id}/{file_name}"
UPLOAD = "/files/uploads/{key_id}/{upload_id}"


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    return response.get_json()  # type: ignore[no-any-return]


@pytest.fixture
def worker_spec(client: FlaskClient) -> dict[str, Any]:
    return client.get("/openapi-worker.json").get_json()  # type: ignore[no-any-return]


@pytest.fixture
def both(spec: dict[str, Any], worker_spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec, worker_spec]


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in spec["paths"].items():
        yield from ((path, method, item[method]) for method in METHODS & set(item))


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


def test_every_reference_resolves_and_every_component_is_used(both: list[dict[str, Any]]) -> None:
    for spec in both:
        assert spec["openapi"].startswith("3.1.")
        assert {"title", "version", "license", "contact"} <= set(spec["info"]) and spec["servers"]
        used = {node["$ref"] for node in walk(spec) if "$ref" in node}
        for reference in used:
            target: Any = spec
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
        components = {kind: names for kind, names in spec["components"].items() if kind != "securitySchemes"}
        assert {f"#/components/{kind}/{name}" for kind, names in components.items() for name in names} <= used


def test_the_server_is_the_public_url(settings: Settings) -> None:
    for url, shown in ((None, "/"), ("https://video.example.com/", "https://video.example.com")):
        client = create_app(replace(settings, public_url=url)).test_client()
        assert [server["url"] for server in client.get("/openapi.json").get_json()["servers"]] == [shown]


def test_every_operation_has_a_readable_id_of_its_own(both: list[dict[str, Any]]) -> None:
    ids = [operation["operationId"] for spec in both for *_, operation in operations(spec)]
    assert {*OPERATIONS, "listJobs", "getJob", "cancelJob", "uploadFile", "downloadOutput", "reportEvent"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert [id_ for id_ in ids if not re.fullmatch("[a-z][A-Za-z0-9]+", id_)] == []


def test_every_operation_has_the_required_parts(both: list[dict[str, Any]]) -> None:
    for document, path, method, operation in ((spec, *found) for spec in both for found in operations(spec)):
        assert operation["summary"], (path, method)
        assert operation["responses"]
        for response in operation["responses"].values():
            assert "$ref" in response or response["description"]
        for status, response in operation["responses"].items():
            if status.isdigit() and int(status) >= 400 and status != "412" and path != "/ready":
                assert list(response["content"]) == ["application/problem+json"], (path, status)
        parameters = operation.get("parameters", []) + document["paths"][path].get("parameters", [])
        named = {p["name"] for p in parameters if p["in"] == "path"}
        assert named == set(re.findall("{([^}]+)}", path))
        assert all("schema" in parameter for parameter in parameters)


def test_every_route_is_documented(app: Flask, both: list[dict[str, Any]]) -> None:
    """Once, for who calls it."""
    routes = {
        (re.sub("<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    documented = [{(path, method) for path, method, _ in operations(spec)} for spec in both]
    files = {("/files/{key}", "get"), ("/files/{key}", "put")}
    exact = {(OUTPUT, "get"), (OUTPUT, "put"), (UPLOAD, "get")}
    expected = {route for route in routes if route[0] not in UNDOCUMENTED} - files | exact
    assert sorted(expected) == sorted([*documented[0], *documented[1]])
    assert documented[1] == {(OUTPUT, "put"), (UPLOAD, "get"), ("/events/{attempt_id}", "post")}


def test_the_clients_document_has_nothing_of_the_workers(both: list[dict[str, Any]]) -> None:
    clients, workers = both
    assert "eventToken" not in json.dumps(clients) and not {"Event", "Stats"} & set(clients["components"]["schemas"])
    assert "workers" not in {tag["name"] for tag in clients["tags"]}
    assert list(workers["components"]["securitySchemes"]) == ["eventToken"]
    assert "CaptionParams" not in workers["components"]["schemas"]


def test_the_paths_of_files_are_those_of_signed_urls(
    both: list[dict[str, Any]], api: FlaskClient, worker: Worker
) -> None:
    """A parameter of a path cannot hold slashes."""
    worker.finish()
    url = api.get(f"/jobs/{worker.job_id}").get_json()["video_url"]
    uploaded = api.post("/files", data=VIDEO).get_json()["url"]
    for spec, template, signed in (
        (both[0], OUTPUT, url),
        (both[1], OUTPUT, worker.upload),
        (both[1], UPLOAD, uploaded),
    ):
        parameters = {p["name"]: p["schema"]["pattern"] for p in spec["paths"][template]["parameters"]}
        pattern = template
        for name, allowed in parameters.items():
            pattern = pattern.replace(f"{{{name}}}", f"({allowed[1:-1]})")
        assert re.fullmatch(pattern, urlsplit(signed).path), signed


def test_every_operation_is_documented_with_its_fields_and_examples(spec: dict[str, Any]) -> None:
    for operation in OPERATIONS.values():
        post = spec["paths"][f"/video/{operation.name}"]["post"]
        assert post["summary"] == operation.summary
        content = post["requestBody"]["content"]["application/json"]
        schema = spec["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        properties = {
            name: field for form in schema.get("oneOf", [schema]) for name, field in form["properties"].items()
        }
        assert set(properties) == {*operation.params().fields, "webhook_url", "reference", "filename"}
        assert [example["value"] for example in content["examples"].values()] == [dict(e) for e in operation.examples]
        assert all(field.get("description") for field in properties.values())


def test_every_example_validates(spec: dict[str, Any], api: FlaskClient) -> None:
    for path, method, operation in operations(spec):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            for example in media.get("examples", {}).values():
                assert api.open(path, method=method, json=example["value"]).status_code == 202


def test_patterns_follow_json_schema(spec: dict[str, Any]) -> None:
    """In JSON Schema `\\Z` is the letter Z, and a pattern without `^` matches anywhere."""
    patterns = [node["pattern"] for node in walk(spec) if isinstance(node.get("pattern"), str)]
    assert len(patterns) >= 8
    assert [pattern for pattern in patterns if not pattern.startswith("^") or r"\Z" in pattern] == []
    [cursor] = [p for p in spec["paths"]["/jobs"]["get"]["parameters"] if p["name"] == "cursor"]
    assert cursor["schema"]["pattern"] == "^job_[0-9A-Z]{26}$"


def test_the_documented_security_is_enforced(both: list[dict[str, Any]], client: FlaskClient) -> None:
    for spec in both:
        for path, method, operation in operations(spec):
            status = client.open(re.sub("{[^}]+}", "x", path), method=method).status_code
            assert (status == 401) == (operation.get("security", spec.get("security")) != []), (path, method)
        named = [spec.get("security", []), *(op["security"] for *_, op in operations(spec) if "security" in op)]
        assert {name for requirements in named for one in requirements for name in one} == set(
            spec["components"]["securitySchemes"]
        )
    spec, schemes = both[0], both[0]["components"]["securitySchemes"] | both[1]["components"]["securitySchemes"]
    assert spec["security"] == [{"apiKey": []}, {"bearer": []}]
    assert schemes["apiKey"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert (schemes["eventToken"]["type"], schemes["eventToken"]["scheme"]) == ("http", "bearer")


# Statuses that the random requests of `test_conformance.py` and `test_random_bodies.py` seldom or never cause.
RARE = {
    **{f"post /video/{name}": {200, 202, 400, 401, 402, 413, 415, 422, 429, 503, 507} for name in OPERATIONS},
    "get /jobs": {200, 401, 422, 503},
    "get /jobs/{job_id}": {200, 202, 401, 404, 422, 503},
    "delete /jobs/{job_id}": {200, 401, 404, 409, 503},
    "post /jobs/{job_id}/webhook": {202, 401, 404, 409, 503},
    "post /files": {201, 400, 401, 411, 413, 415, 429, 503, 507},
    f"get {OUTPUT}": {200, 206, 304, 403, 404, 416, 503},
    f"get {UPLOAD}": {200, 206, 304, 403, 404, 416, 503},
    f"put {OUTPUT}": {201, 400, 403, 409, 411, 413, 503, 507},
    "post /events/{attempt_id}": {200, 400, 401, 409, 413, 415, 422, 503},
    "get /health": {200},
    "get /ready": {200, 503},
}


@pytest.mark.parametrize("call", RARE)
def test_rare_statuses_are_documented(both: list[dict[str, Any]], call: str) -> None:
    method, _, path = call.partition(" ")
    [operation] = [found[method] for spec in both if method in (found := spec["paths"].get(path, {}))]
    assert {str(status) for status in RARE[call]} <= set(operation["responses"])


def test_documents_have_only_documented_fields(
    spec: dict[str, Any], api: FlaskClient, worker: Worker, services: Gateway
) -> None:
    job = api.post("/video/caption", json={**CAPTION, "webhook_url": "http://receiver.invalid/"}).get_json()
    api.delete(f"/jobs/{job['jobId']}")
    services.turn()
    log = api.get(f"/jobs/{job['jobId']}").get_json()["webhook"]
    assert set(log) == set(spec["components"]["schemas"]["JobWebhook"]["properties"]) - {"lastStatusCode"}
    worker.finish()
    job = api.get(f"/jobs/{worker.job_id}").get_json()
    schemas = spec["components"]["schemas"]
    assert set(job) <= set(schemas["Job"]["properties"])
    assert set(job["stats"]) <= set(schemas["JobStats"]["properties"])
    problem = api.post("/video/caption", json={}).get_json()
    assert set(problem) <= set(schemas["Problem"]["properties"])


def test_a_job_has_its_keys_in_the_order_that_the_readme_shows(spec: dict[str, Any]) -> None:
    text = (ROOT / "README.md").read_text()
    [shown] = re.findall(r"```json\n(\{\n  \"jobId\".*?\n\})\n```", text, re.DOTALL)
    for name, document in (("Job", json.loads(shown)), ("JobStats", json.loads(shown)["stats"])):
        fields = list(spec["components"]["schemas"][name]["properties"])
        assert list(document) == [field for field in fields if field in document]


def test_the_webhook_is_sent_as_documented(spec: dict[str, Any], services: Gateway, job_factory: JobFactory) -> None:
    described = spec["components"]["pathItems"]["jobEnded"]["post"]
    callbacks = {"jobEnded": {"{$request.body#/webhook_url}": {"$ref": "#/components/pathItems/jobEnded"}}}
    for path, method, operation in operations(spec):
        shown = "webhook_url" in json.dumps(_body(spec, operation))
        assert (operation.get("callbacks") == callbacks) == shown == path.startswith("/video/"), (path, method)
    job = job_factory(webhook_url="https://example.com/hook")
    job = services.jobs.cancel(job.id, job.key_id)
    sent = json.loads(message.body(job, services.documents.of(job)))
    assert described["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/JobEnded"
    }
    schema = spec["components"]["schemas"]["JobEnded"]
    assert set(sent) == set(schema["properties"]) == set(schema["required"])
    assert schema["properties"]["type"]["enum"] == ["job.cancelled", "job.completed", "job.failed"]
    assert sent["type"] == "job.cancelled"
    assert set(sent["data"]) <= set(spec["components"]["schemas"]["Job"]["properties"])
    signed = message.headers("wh_1", ["whsec_c2VjcmV0"], b"", 0)
    assert {parameter["name"] for parameter in described["parameters"]} == set(signed) - {"Content-Type"}
    assert all(
        re.fullmatch(parameter["schema"]["pattern"], parameter["example"]) for parameter in described["parameters"]
    )
    assert described["tags"] == ["jobs"] and "jobs" in {tag["name"] for tag in spec["tags"]}


def _body(spec: dict[str, Any], operation: dict[str, Any]) -> Any:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

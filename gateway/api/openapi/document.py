"""`/openapi.json` for clients, and `/openapi-worker.json` for who writes a worker: two parts of one description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import flask
from apispec import APISpec
from flask import Response

from gateway.api.job_response import ValidParamsSchema
from gateway.api.openapi import examples, paths, webhook
from gateway.api.openapi.headers import HEADERS

Document = dict[str, Any]

_TAGS = {paths.WORKERS: "Called by workers, with what the gateway hands them for one attempt"}
_METHODS = ("get", "put", "post", "delete")


def options(public_url: str | None) -> Document:
    """What the document says of the whole API."""
    return {
        "info": {
            "description": "Video jobs on GPUs that exist only while there is work.",
            "license": {"name": "MIT", "identifier": "MIT"},
            "contact": {"name": "The Reelay authors"},
        },
        "servers": [{"url": public_url.rstrip("/") if public_url else "/", "description": "This gateway"}],
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
                "eventToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Given to a worker with its attempt; valid for that attempt only.",
                },
            },
            "headers": HEADERS,
            "examples": examples.COMPONENTS,
            "pathItems": {"jobEnded": webhook.JOB_ENDED},
        },
        "security": [{"apiKey": []}, {"bearer": []}],
    }


def blueprint(spec: APISpec) -> flask.Blueprint:
    """The routes of both documents. `spec` must be complete before the first request."""
    here = flask.Blueprint("api-docs", __name__)
    spec.components.schema("JobEnded", schema=webhook.JobEndedSchema)
    spec.components.schema("JobOrParams", {"oneOf": [_schema("Job"), _schema("ValidParams")]})
    spec.components.schema("ValidParams", schema=ValidParamsSchema)

    @cache
    def text(*, workers: bool) -> str:
        return json.dumps(part(spec.to_dict(), workers=workers))

    @here.get("/openapi.json")
    def openapi_json() -> Response:
        return Response(text(workers=False), mimetype="application/json")

    @here.get("/openapi-worker.json")
    def openapi_worker_json() -> Response:
        return Response(text(workers=True), mimetype="application/json")

    return here


def _schema(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def part(whole: Mapping[str, Any], *, workers: bool) -> Document:
    """The part of the document that is about workers, or about clients, with the components that it uses."""
    items: dict[str, dict[str, Any]] = {}
    for path, item in paths.exact(whole["paths"]).items():
        kept = {
            method: _with_callbacks(item[method])
            for method in _METHODS
            if method in item and (paths.WORKERS in item[method]["tags"]) == workers
        }
        if kept:
            items[path] = {**({"parameters": item["parameters"]} if "parameters" in item else {}), **kept}
    operations = [item[method] for item in items.values() for method in _METHODS if method in item]
    used = {tag for operation in operations for tag in operation["tags"]}
    described = [*whole["tags"], *({"name": name, "description": what} for name, what in _TAGS.items())]
    document = {
        "openapi": whole["openapi"],
        "info": {**whole["info"], **({"title": f"{whole['info']['title']} for workers"} if workers else {})},
        "servers": whole["servers"],
        **({} if workers else {"security": whole["security"]}),
        "tags": [tag for tag in described if tag["name"] in used],
        "paths": items,
    }
    return {**document, "components": _used(document, operations, whole["components"])}


def _with_callbacks(operation: Document) -> Document:
    """apispec takes no references in callbacks."""
    return {**operation, "callbacks": webhook.CALLBACKS} if paths.MAKES_JOBS in operation["tags"] else operation


def _used(document: Document, operations: list[Document], components: Mapping[str, Any]) -> Document:
    """The components that `document` uses, directly or through others, in their order."""
    required = [document.get("security", []), *(operation.get("security", []) for operation in operations)]
    schemes = {name for requirements in required for requirement in requirements for name in requirement}
    seen = {("securitySchemes", name) for name in schemes}
    new = set(_references(document))
    while new:
        seen |= new
        new = {found for kind, name in new for found in _references(components[kind][name])} - seen
    kept = {
        kind: {name: value for name, value in known.items() if (kind, name) in seen}
        for kind, known in components.items()
    }
    return {kind: known for kind, known in kept.items() if known}


def _references(node: Any) -> Iterator[tuple[str, str]]:
    """The components to which `node` refers directly: kind and name."""
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str) and (match := re.fullmatch(r"#/components/(\w+)/([\w.-]+)", reference)):
            yield match[1], match[2]
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _references(inner)

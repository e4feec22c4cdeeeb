"""Checks requests and responses against the published schema, except where the real platform differs from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

_SCHEMA = json.loads(Path(__file__).with_name("published.openapi.json").read_text())
_URI = "urn:vast"
_REGISTRY: Registry[Any] = Registry().with_resource(_URI, DRAFT202012.create_resource(_SCHEMA))
_CALLS = {
    "search": ("post", "/api/v0/bundles"),
    "create": ("put", "/api/v0/asks/{id}"),
    "list": ("get", "/api/v1/instances"),
    "show": ("get", "/api/v0/instances/{id}"),
    "destroy": ("delete", "/api/v0/instances/{id}"),
    "self-destroy": ("delete", "/api/v0/instances/{id}"),
    "manage": ("put", "/api/v0/instances/{id}"),
    "account": ("get", "/api/v0/users/current"),
}
FILTERS = frozenset(
    _SCHEMA["paths"]["/api/v0/bundles"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
)
# Where the platform differs: `show` has other types for ports and environment than the listing, and returns null for an
# instance that is gone; `env` has type string; the bounds of `order` are those of one of its pairs.
_DIFFERS = {
    ("search", "$.order"),
    ("show", "$.instances.ports"),
    ("show", "$.instances.extra_env"),
    ("show", "$.instances"),
    ("create", "$.env"),
}


def answer_violations(call: str, status: int, body: Any) -> list[str]:
    """How a response breaks the schema. A status that the schema does not define is not checked."""
    method, path = _CALLS[call]
    if str(status) not in _SCHEMA["paths"][path][method]["responses"]:
        return []
    return _violations(call, f"responses/{status}/content/application~1json/schema", body)


def request_violations(call: str, body: Any) -> list[str]:
    return _violations(call, "requestBody/content/application~1json/schema", body)


def _violations(call: str, where: str, value: Any) -> list[str]:
    method, path = _CALLS[call]
    pointer = path.replace("/", "~1").replace("{", "%7B").replace("}", "%7D")
    validator = Draft202012Validator({"$ref": f"{_URI}#/paths/{pointer}/{method}/{where}"}, registry=_REGISTRY)
    return [
        f"{call} {error.json_path}: {error.message}"
        for error in validator.iter_errors(value)
        if (call, error.json_path.partition("[")[0]) not in _DIFFERS
    ]

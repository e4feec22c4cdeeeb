"""Holds responses against the OpenAPI documents: their status, headers and body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request
from jsonschema import Draft202012Validator

DOCUMENTS = ("openapi", "openapi-worker")
FILES = {
    "outputs": "/files/outputs/{job_id}/{attempt_id}/{file_name}",
    "uploads": "/files/uploads/{key_id}/{upload_id}",
}
# Of every response, and of interest to browsers, proxies and players only.
GENERAL_HEADERS = {
    *("Accept-Ranges", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Cache-Control", "Connection"),
    *("Content-Disposition", "Content-Length", "Content-Security-Policy", "Content-Type", "Date", "Expires"),
    "Last-Modified",
    *("Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "Permissions-Policy", "Referrer-Policy"),
    *("Strict-Transport-Security", "Vary", "X-Accel-Redirect", "X-Content-Type-Options", "X-Frame-Options"),
}


class Documented:
    """The documents of a gateway."""

    def __init__(self, app: Flask) -> None:
        client = app.test_client()
        self._documents = [client.get(f"/{name}.json").get_json() for name in DOCUMENTS]
        self._validators: dict[str, Draft202012Validator] = {}

    def check(self, response: Response) -> None:
        """Assert that the response to the current request is documented; for requests of undocumented routes, nothing."""
        path, method = _path(), request.method.lower()
        for document in self._documents:
            if method in document["paths"].get(path, {}):
                self._check(document, document["paths"][path][method], response, f"{method} {path} {response.status}")

    def validator(self, document: Mapping[str, Any], schema: Mapping[str, Any]) -> Draft202012Validator:
        """A validator of a schema in `document`."""
        key = f"{id(document)} {schema}"
        if key not in self._validators:
            self._validators[key] = Draft202012Validator({**schema, "components": document["components"]})
        return self._validators[key]

    def _check(self, document: Mapping[str, Any], operation: Mapping[str, Any], response: Response, where: str) -> None:
        found = operation["responses"].get(str(response.status_code))
        if found is None and response.status_code in {405, 500}:  # not of one operation
            found = operation["responses"]["default"]
        assert found is not None, f"{where} is not documented"
        described = resolved(document, found)
        self._check_headers(document, described, response, where)
        content = described.get("content", {})
        if response.is_json and "application/octet-stream" not in content:
            schema = content[response.mimetype]["schema"]
            problems = [error.message for error in self.validator(document, schema).iter_errors(response.get_json())]
            assert problems == [], (where, response.get_json())

    def _check_headers(
        self, document: Mapping[str, Any], described: Mapping[str, Any], response: Response, where: str
    ) -> None:
        headers = {name: resolved(document, header) for name, header in described.get("headers", {}).items()}
        for name, header in headers.items():
            assert name in response.headers or not header.get("required"), f"{where} lacks {name}"
            if name in response.headers:
                sent = response.headers[name]
                value = int(sent) if header["schema"]["type"] == "integer" else sent
                assert self.validator(document, header["schema"]).is_valid(value), f"{where} has {name}: {sent}"
        unknown = {name for name, _ in response.headers} - GENERAL_HEADERS - set(headers)
        if document is self._documents[1]:  # some tests call the API during an upload, and both requests share `g`
            unknown = {name for name in unknown if not name.startswith("RateLimit-")}
        assert not unknown or response.status_code in {405, 500}, f"{where} has undocumented headers: {unknown}"


def resolved(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The component to which `node` refers, or `node` itself."""
    target: Any = node
    if "$ref" in node:
        target = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
    return target  # type: ignore[no-any-return]


def _path() -> str:
    """The path of the current request's operation; empty without one."""
    if request.url_rule is None:
        return ""
    if request.url_rule.rule == "/files/<path:key>":
        return FILES.get(str((request.view_args or {})["key"]).partition("/")[0], "")
    return request.url_rule.rule.replace("<", "{").replace(">", "}")

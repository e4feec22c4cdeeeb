"""The HTTP API: HTTP in, HTTP out. What it means is decided in `gateway.api.job_service`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog
from flask import Flask, Response, g, redirect, request
from flask_swagger_ui import get_swaggerui_blueprint
from ulid import ULID
from werkzeug import Response as BaseResponse

from common.http_server import read_no_more
from gateway.api import (
    callers,
    event_routes,
    file_routes,
    front,
    health_routes,
    job_routes,
    metrics_routes,
    operation_routes,
    problems,
)
from gateway.api.webhook_spec import WEBHOOKS
from gateway.settings import Settings

log = structlog.get_logger(__name__)

VERSION = "0.1.0"
_CONFIG = {
    "API_TITLE": "Reelay",
    "API_VERSION": VERSION,
    "OPENAPI_VERSION": "3.1.0",
    "OPENAPI_URL_PREFIX": "/",
    "API_SPEC_OPTIONS": {
        "info": {"description": "Video jobs on GPUs that exist only while there is work."},
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "eventToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Handed to a worker with its attempt, for that attempt alone.",
                },
            }
        },
        "security": [{"apiKey": []}],
        "webhooks": WEBHOOKS,
    },
}
# Without its validator, which would have the specification fetched by a stranger's server, and with nothing of the
# request in the page: its script is always the same one.
_SWAGGER_UI = {"app_name": "Reelay", "validatorUrl": None, "oauth2RedirectUrl": "/docs/oauth2-redirect.html"}


def register(app: Flask, settings: Settings) -> None:
    """Add all routes, the error documents and the checks before and after every request."""
    app.config.update(_CONFIG, MAX_CONTENT_LENGTH=settings.max_body_bytes)
    app.before_request(_identify_request)
    front.register(app, settings.trusted_proxy_hops)
    app.before_request(callers.check)
    app.after_request(_finish)
    app.after_request(callers.add_headers)
    app.after_request(read_no_more)
    for path in ("/", "/docs"):
        app.add_url_rule(path, "root", _to_docs)
    api = problems.ProblemApi(app)
    api.ma_plugin.converter.add_attribute_function(_pattern)
    for module in (operation_routes, job_routes, file_routes, event_routes, health_routes, metrics_routes):
        api.register_blueprint(module.blueprint())
    app.register_blueprint(get_swaggerui_blueprint("/docs", "/openapi.json", _SWAGGER_UI, blueprint_name="docs"))
    front.let_docs_run(app)
    problems.register(app)


def _pattern(_: object, __: object, *, ret: Mapping[str, Any], **___: Any) -> dict[str, str]:
    """A field's pattern as JSON Schema reads it: it looks anywhere in the text, and for the end it has `$` alone."""
    if "pattern" not in ret:
        return {}
    return {"pattern": "^" + ret["pattern"].removeprefix("^").replace(r"\Z", "$")}


def _to_docs() -> BaseResponse:
    return redirect("/docs/")


def _identify_request() -> None:
    g.started = time.monotonic()
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if given.isascii() and given.isprintable() and 0 < len(given) <= 64 else str(ULID())
    structlog.contextvars.clear_contextvars()
    named = {name: value for name, value in (request.view_args or {}).items() if name in {"job_id", "attempt_id"}}
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **named)


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    quiet = request.endpoint in {"health.Health", "events.Events", "metrics.Metrics"} and response.status_code < 400
    (log.debug if quiet else log.info)(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round((time.monotonic() - g.started) * 1000, 1),
        key_id=g.get("key_id"),
    )
    return response

"""Registers the HTTP API on a Flask application. What requests do is implemented in `gateway.api.job_service`."""

from __future__ import annotations

import time

import structlog
from flask import Flask, Response, g, redirect, request
from ulid import ULID

from common.http_connection import close_if_body_unread
from gateway.api import (
    callers,
    error_routes,
    event_routes,
    file_routes,
    front,
    job_routes,
    monitoring_routes,
    operation_routes,
    problems,
    upload_checks,
)
from gateway.api.openapi import document
from gateway.api.openapi.schemas import Plugin
from gateway.settings import Settings
from gateway.web import routes

log = structlog.get_logger(__name__)

VERSION = "0.1.0"
_CONFIG = {
    "API_TITLE": "Reelay",
    "API_VERSION": VERSION,
    "OPENAPI_VERSION": "3.1.0",
}


def register(app: Flask, settings: Settings) -> None:
    """Add all routes, the error documents, and the checks before and after every request."""
    app.config.update(_CONFIG, MAX_CONTENT_LENGTH=settings.max_body_bytes)
    app.config["API_SPEC_OPTIONS"] = document.options(settings.public_url)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # keys come as they are documented
    app.url_map.strict_slashes = False  # a slash at the end changes nothing
    app.before_request(_identify_request)
    front.register(app, settings.trusted_proxy_hops)
    app.before_request(callers.check)
    app.after_request(_finish)
    app.after_request(callers.add_headers)
    app.teardown_request(callers.end)
    app.after_request(close_if_body_unread)
    app.add_url_rule("/", "root", lambda: redirect("/docs/"))
    app.add_url_rule("/docs", "root")
    api = problems.ProblemApi(app, spec_kwargs={"marshmallow_plugin": Plugin()})
    for module in (operation_routes, job_routes, file_routes, error_routes, event_routes, monitoring_routes):
        api.register_blueprint(module.blueprint())
    app.register_blueprint(document.blueprint(api.spec))
    app.register_blueprint(upload_checks.blueprint())
    for made in (routes.page(settings), routes.files(settings)):
        app.register_blueprint(made)
    problems.register(app)


def _identify_request() -> None:
    g.started = time.monotonic()
    sent = request.headers.get("X-Request-Id", "")
    g.request_id = sent if sent.isascii() and sent.isprintable() and 0 < len(sent) <= 64 else str(ULID())
    structlog.contextvars.clear_contextvars()
    ids = {name: value for name, value in (request.view_args or {}).items() if name in {"job_id", "attempt_id"}}
    structlog.contextvars.bind_contextvars(request_id=g.request_id, **ids)


def _finish(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    quiet = (
        request.endpoint in {"monitoring.Health", "events.Events", "monitoring.Metrics"} and response.status_code < 400
    )
    (log.debug if quiet else log.info)(
        "request.handled",
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round((time.monotonic() - g.started) * 1000, 1),
        key_id=g.get("key_id"),
    )
    return response

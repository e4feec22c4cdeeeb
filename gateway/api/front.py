"""What stands before every route: proxies that are believed, pages of other origins, headers that browsers obey."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode

from flask import Flask, Response, current_app, request
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway.wiring import services

# Answers are data, not pages: nothing in them runs, and nobody frames them.
_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI draws its icons from data: URLs and sets styles of elements. One script of its page is inside of it.
_DOCS = (
    "default-src 'none'; script-src 'self' '{script}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A file of a client's, shown by itself, is in an origin of its own and may do no more than play.
_FILES = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_HSTS = "max-age=31536000"

_METHODS = "GET, HEAD, POST, DELETE"
_ASKED = "Content-Type, Idempotency-Key, Prefer, Range, X-API-Key, X-Request-Id"
_SHOWN = (
    "Accept-Ranges, Content-Length, Content-Range, ETag, Location, Preference-Applied, RateLimit-Limit, "
    "RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Request-Id"
)
_PREFLIGHT_S = "600"


def register(app: Flask, trusted_proxy_hops: int) -> None:
    """Must come before all other checks: a browser's question whether it may call carries no key."""
    hops = trusted_proxy_hops
    if hops:  # one too many, and everybody may forge an address. Nothing here is made from the name of the host.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=0)  # type: ignore[method-assign]
    app.before_request(_answer_preflight)
    app.after_request(_harden)
    app.after_request(_open_to_origin)


def let_docs_run(app: Flask) -> None:
    """Once the page of the documentation is registered: its own script may run, by its hash, and no other."""
    with app.test_request_context("/docs/"):
        page = app.view_functions["docs.show"]()
    (script,) = re.findall(r"<script>(.*?)</script>", str(page), re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    app.extensions["docs_policy"] = _DOCS.format(script=f"sha256-{digest}")


def _origin_let_in() -> str | None:
    origin = request.headers.get("Origin", "")
    allowed = {known.rstrip("/").lower() for known in services().settings.cors_origins}
    return origin if origin.lower() in allowed else None


def _answer_preflight() -> Response | None:
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not asks or _origin_let_in() is None:
        return None
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = _METHODS
    response.headers["Access-Control-Allow-Headers"] = _ASKED
    response.headers["Access-Control-Max-Age"] = _PREFLIGHT_S
    return response


def _open_to_origin(response: Response) -> Response:
    """Never with credentials: a key is a header that the page must know."""
    if not services().settings.cors_origins:
        return response
    response.vary.add("Origin")
    if (origin := _origin_let_in()) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _SHOWN
    return response


def _harden(response: Response) -> Response:
    where = (request.endpoint or "").partition(".")[0]
    is_file = request.endpoint == "files.File" and response.status_code < 400
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    policy = _FILES if is_file else current_app.extensions["docs_policy"] if where == "docs" else _CLOSED
    response.headers["Content-Security-Policy"] = policy
    # A finished video may stand in anybody's page: its URL is the permission.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin" if is_file else "same-origin"
    if not is_file and where != "docs":
        response.headers.setdefault("Cache-Control", "no-store")  # signed URLs are in it
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = _HSTS
    return response

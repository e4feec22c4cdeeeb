"""Around every route: trusted proxies, CORS, and the security headers of responses."""

from __future__ import annotations

from flask import Flask, Response, request
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway.wiring import services

# Responses are data, not pages: nothing in them may run, and no page may frame them.
_CLOSED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Swagger UI uses icons in data: URLs and inline styles.
_DOCS = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# A file that is opened in a browser gets an opaque origin and may only be played.
_FILES = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; sandbox"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_HSTS = "max-age=31536000"

_ALLOWED_METHODS = "GET, HEAD, POST, DELETE"
_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Prefer, Range, X-API-Key, X-Request-Id"
_EXPOSED_HEADERS = (
    "Accept-Ranges, Content-Length, Content-Range, ETag, Location, Preference-Applied, RateLimit-Limit, "
    "RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Request-Id"
)
_PREFLIGHT_S = "600"


def register(app: Flask, trusted_proxy_hops: int) -> None:
    """Register trusted proxies, CORS and headers. Call this before adding checks: preflight requests carry no key."""
    hops = trusted_proxy_hops
    if hops:  # one too many lets clients forge their address; the Host header is never used
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=0)  # type: ignore[method-assign]
    app.before_request(_respond_to_preflight)
    app.after_request(_add_security_headers)
    app.after_request(_add_cors_headers)


def _allowed_origin() -> str | None:
    origin = request.headers.get("Origin", "")
    allowed = {known.rstrip("/").lower() for known in services().settings.cors_origins}
    return origin if origin.lower() in allowed else None


def _respond_to_preflight() -> Response | None:
    asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not asks or _allowed_origin() is None:
        return None
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = _ALLOWED_METHODS
    response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
    response.headers["Access-Control-Max-Age"] = _PREFLIGHT_S
    return response


def _add_cors_headers(response: Response) -> Response:
    """Allow configured origins, but never credentials: a page must know the key and send it as a header."""
    if not services().settings.cors_origins:
        return response
    response.vary.add("Origin")
    if (origin := _allowed_origin()) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
    return response


def _add_security_headers(response: Response) -> Response:
    is_file = request.endpoint in {"files.File", "web.sample"} and response.status_code < 400
    is_page = (request.endpoint or "").startswith("docs.")
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Content-Security-Policy"] = _FILES if is_file else _DOCS if is_page else _CLOSED
    # Any page may embed a finished video: the signed URL is the permission.
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin" if is_file else "same-origin"
    if not is_file:
        response.headers.setdefault("Cache-Control", "no-store")  # it contains signed URLs
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = _HSTS
    return response

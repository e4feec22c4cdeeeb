"""Authentication, scopes and rate limits, checked before the body of a request is read."""

from __future__ import annotations

from flask import Response, g, request

from gateway.access.keys import may, mistyped
from gateway.access.rate_limits import address_of
from gateway.access.turns import Turn
from gateway.errors import MissingScope, RateLimited, Unauthorized
from gateway.wiring import services

# Need no API key: they are public, or requests carry a signature or a token.
PUBLIC_ENDPOINTS = frozenset(
    {"monitoring.Health", "monitoring.Ready", "files.File", "events.Events", "upload_checks.output"}
)
PUBLIC_BLUEPRINTS = frozenset({"docs", "web", "api-docs", "errors"})
# Without a rate limit: `/health` must always respond; the others carry a signature or a token, which is cheap to check,
# and many workers may share one address.
UNCOUNTED_ENDPOINTS = frozenset({"monitoring.Health", "files.File", "events.Events", "upload_checks.output"})
# The scope that a key needs, by blueprint. Other blueprints need `admin`.
SCOPE_OF = {"video": "jobs", "jobs": "jobs", "files": "jobs", "upload_checks": "jobs", "monitoring": "metrics"}

_MISTYPED = "The key is mistyped: its checksum is wrong."


def needs_key(endpoint: str | None) -> bool:
    """Whether requests to this Flask endpoint need an API key. Unknown paths (None) need one too."""
    if endpoint is None:
        return True
    return endpoint not in PUBLIC_ENDPOINTS | {"root"} and endpoint.partition(".")[0] not in PUBLIC_BLUEPRINTS


def check() -> None:
    """Set `g.key_id` if the request has a valid key. Raises RateLimited, Unauthorized or MissingScope."""
    if needs_key(request.endpoint):
        _check_key()
    elif request.endpoint not in UNCOUNTED_ENDPOINTS:
        _count("address", address_of(request.remote_addr))


def add_headers(response: Response) -> Response:
    """Report the remaining requests to a caller with a rate limit."""
    if window := g.get("window"):
        response.headers["RateLimit-Limit"] = str(window.limit)
        response.headers["RateLimit-Remaining"] = str(window.remaining)
        response.headers["RateLimit-Reset"] = str(window.reset_s)
    return response


def end_turn() -> None:
    """Let another request of the key have its turn, if this one still has it."""
    if turn := g.pop("turn", None):
        turn.end()


def end(_: object) -> None:
    """Forget the request. For `app.teardown_request`."""
    end_turn()
    if g.pop("in_progress", False):
        services().thread_limits.in_progress.give_back(g.key_id)


def _check_key() -> None:
    here, secret = services(), request.headers.get("X-API-Key") or _bearer()
    # Failed attempts from a shared address must not lock out keys that were valid recently.
    if not here.keys.recently_valid(secret):
        here.rate_limits.check("failed", address_of(request.remote_addr))
    key = here.keys.verify(secret)
    if key is None:
        _count("failed", address_of(request.remote_addr))
        raise Unauthorized(_MISTYPED if secret and mistyped(secret) else None)
    g.key_id = key.id
    if not here.thread_limits.in_progress.take(key.id):
        raise RateLimited(retry_after_s=1)
    g.in_progress = True
    _count("key", key.id)
    scope = "" if request.endpoint is None else SCOPE_OF.get(request.endpoint.partition(".")[0], "admin")
    if scope and not may(key, scope):
        raise MissingScope(f"The key is valid, but lacks the scope `{scope}` that this route needs.")
    turn = Turn(here.thread_limits.turns, key.id, request.environ.get("gunicorn.socket"))
    turn.wait()
    g.turn = turn


def _count(kind: str, who: str) -> None:
    window = services().rate_limits.take(kind, who)
    if window is None:
        return
    g.window = window
    if window.exceeded:
        raise RateLimited(retry_after_s=window.reset_s)


def _bearer() -> str | None:
    """The key from the header `Authorization: Bearer`, for clients that cannot set another or expect this one."""
    authorization = request.authorization
    return authorization.token if authorization is not None and authorization.type == "bearer" else None

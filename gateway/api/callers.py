"""Who calls, whether they may, and how often: looked at before anything else, the body above all."""

from __future__ import annotations

from flask import Response, g, request

from gateway.access.keys import may, mistyped
from gateway.access.rate_limits import address_of
from gateway.errors import MissingScope, RateLimited, Unauthorized
from gateway.wiring import services

# Who calls these needs no API key: they are public, or carry a signature or a token of their own.
PUBLIC_ENDPOINTS = frozenset({"health.Health", "health.Ready", "files.File", "events.Events"})
PUBLIC_BLUEPRINTS = frozenset({"docs", "api-docs"})
# Of these nobody counts the calls: `/health` always answers, and what is wrong with a signature or a token is found
# without asking anybody, while many workers may sit behind one address.
UNCOUNTED_ENDPOINTS = frozenset({"health.Health", "files.File", "events.Events"})
# What a key must have, by blueprint. What is not named is for `admin` alone.
SCOPE_OF = {"video": "jobs", "jobs": "jobs", "files": "jobs", "metrics": "metrics"}

_MISTYPED = "The key in X-API-Key is mistyped: its checksum is wrong."


def needs_key(endpoint: str | None) -> bool:
    """Whether calls of this Flask endpoint must carry a client's API key. An unknown address needs one too."""
    if endpoint is None:
        return True
    return endpoint not in PUBLIC_ENDPOINTS | {"root"} and endpoint.partition(".")[0] not in PUBLIC_BLUEPRINTS


def check() -> None:
    """Raises RateLimited, Unauthorized or MissingScope; sets `g.key_id` where the request has a key."""
    if needs_key(request.endpoint):
        _check_key()
    elif request.endpoint not in UNCOUNTED_ENDPOINTS:
        _count("address", address_of(request.remote_addr))


def add_headers(response: Response) -> Response:
    """Tell a caller whose requests are counted how many are left."""
    if window := g.get("window"):
        response.headers["RateLimit-Limit"] = str(window.limit)
        response.headers["RateLimit-Remaining"] = str(window.remaining)
        response.headers["RateLimit-Reset"] = str(window.reset_s)
    return response


def _check_key() -> None:
    here, secret = services(), request.headers.get("X-API-Key") or _scraper_key()
    # A stranger behind the same proxy or router does not lock out those who have been let in before.
    if not here.keys.lately_recognised(secret):
        here.rates.check("failed", address_of(request.remote_addr))
    key = here.keys.recognise(secret)
    if key is None:
        _count("failed", address_of(request.remote_addr))
        raise Unauthorized(_MISTYPED if secret and mistyped(secret) else None)
    g.key_id = key.id
    _count("key", key.id)
    scope = "" if request.endpoint is None else SCOPE_OF.get(request.endpoint.partition(".")[0], "admin")
    if scope and not may(key, scope):
        raise MissingScope(f"The key is valid, but lacks the scope `{scope}` that this address needs.")


def _count(kind: str, who: str) -> None:
    window = services().rates.take(kind, who)
    if window is None:
        return
    g.window = window
    if window.exceeded:
        raise RateLimited(retry_after_s=window.reset_s)


def _scraper_key() -> str | None:
    """Prometheus has no header of its own for keys."""
    authorization = request.authorization
    if request.endpoint != "metrics.Metrics" or authorization is None or authorization.type != "bearer":
        return None
    return authorization.token

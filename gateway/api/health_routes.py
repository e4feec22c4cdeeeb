"""`/health`: this process is alive. `/ready`: it can do its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flask import Response, jsonify
from flask.views import MethodView
from marshmallow import Schema, fields
from sqlalchemy.exc import SQLAlchemyError

from gateway.api.blueprint import Blueprint
from gateway.dispatch.loop import HEARTBEAT_LEASE
from gateway.errors import RateLimited
from gateway.providers.base import ProviderError
from gateway.storage import StorageFullError, StorageUnavailable
from gateway.wiring import services

KEPT_S = 1.0


class HealthSchema(Schema):
    status = fields.String(metadata={"enum": ["ok"]})


class ReadySchema(Schema):
    status = fields.String(metadata={"enum": ["ready", "not ready"]})
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={"description": "`ok` or the reason, for database, storage, dispatcher and every provider."},
    )


def blueprint() -> Blueprint:
    reached = _Elsewhere()
    here = Blueprint("health", __name__, description="Health and readiness")

    @here.route("/health")
    class Health(MethodView):
        @here.doc(security=[])
        @here.response(200, HealthSchema)
        def get(self) -> dict[str, str]:
            """The process answers."""
            return {"status": "ok"}

    @here.route("/ready")
    class Ready(MethodView):
        @here.doc(security=[])
        @here.response(200, ReadySchema)
        @here.alt_response(503, schema=ReadySchema, description="Something is missing; `checks` says what")
        @here.refuses(RateLimited)
        def get(self) -> Response:
            """Database, storage and dispatcher work, and a provider can be reached."""
            checks = {"database": _try(services().store.ping), "dispatcher": _try(_dispatcher)}
            providers = reached.now()
            checks["storage"] = providers.pop("storage", "is being asked")
            own_ok = all(result == "ok" for result in checks.values())
            ready = own_ok and any(result == "ok" for result in providers.values())
            response = jsonify({"status": "ready" if ready else "not ready", "checks": checks | providers})
            response.status_code = 200 if ready else 503
            return response

    return here


class _Elsewhere:
    """Whether storage and providers can be reached: asked by one thread at a time and at most every KEPT_S seconds.

    Everybody may call `/ready`, and a provider that hangs must not cost more than one thread.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._known: dict[str, str] = {}
        self._asked_at = -KEPT_S

    def now(self) -> dict[str, str]:
        if time.monotonic() - self._asked_at > KEPT_S and self._asking.acquire(blocking=False):
            try:
                known = {f"provider {p.name}": _try(p.check) for p in services().providers.values()}
                self._known = known | {"storage": _try(_storage)}
                self._asked_at = time.monotonic()
            finally:
                self._asking.release()
        return dict(self._known) or {"providers": "are being asked"}


class _NotWellError(Exception):
    pass


def _dispatcher() -> None:
    here = services()
    if (here.store.lease_expires_at(HEARTBEAT_LEASE) or 0) < here.clock.now_ms():
        raise _NotWellError("no dispatcher is running")


def _storage() -> None:
    here = services()
    try:
        here.storage.check()
    except StorageFullError as error:
        raise _NotWellError("the disk is full") from error
    free = here.storage.free_percent()
    if free < here.settings.min_free_disk_percent:
        raise _NotWellError(f"only {free:.1f} % of the disk is free")


def _try(check: Callable[[], object]) -> str:
    try:
        check()
    except (_NotWellError, ProviderError, StorageUnavailable) as error:
        return str(error)
    except (SQLAlchemyError, OSError) as error:
        return type(error).__name__
    return "ok"

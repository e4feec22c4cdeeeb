"""`/health`: the process runs. `/ready`: it can do its work. `/metrics`: figures for Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Response
from flask.views import MethodView
from marshmallow import fields
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from gateway.api.blueprint import Blueprint
from gateway.api.openapi import examples
from gateway.api.openapi.schemas import ResponseSchema
from gateway.dispatch.loop import HEARTBEAT_LEASE
from gateway.errors import RateLimited
from gateway.providers.base import ProviderError
from gateway.storage import StorageFullError, StorageUnavailable
from gateway.wiring import services

#: Seconds for which the state of storage and providers is cached.
CACHED_S = 1.0


class HealthSchema(ResponseSchema):
    """That the process responds."""

    status = fields.String(required=True, metadata={"enum": ["ok"]})


class ReadySchema(ResponseSchema):
    """What works."""

    status = fields.String(required=True, metadata={"enum": ["ready", "not ready"]})
    checks = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        required=True,
        metadata={"description": "`ok` or the reason, for database, storage, dispatcher and every provider."},
    )


_READY = {
    "status": "ready",
    "checks": {"database": "ok", "dispatcher": "ok", "storage": "ok", "provider runpod": "ok"},
}
_NOT_READY = {"status": "not ready", "checks": {**_READY["checks"], "dispatcher": "no dispatcher is running"}}  # type: ignore[dict-item]


def blueprint() -> Blueprint:
    remote = _RemoteChecks()
    here = Blueprint("monitoring", __name__, description="Health, readiness and metrics")

    @here.route("/health")
    class Health(MethodView):
        @here.doc(security=[], operationId="getHealth")
        @here.response(200, HealthSchema, description="It does", examples=examples.only({"status": "ok"}))
        @here.alt_response("4XX", "OtherError")
        def get(self) -> dict[str, str]:
            """Check that the process responds."""
            return {"status": "ok"}

    @here.route("/ready")
    class Ready(MethodView):
        @here.doc(security=[], operationId="getReadiness")
        @here.response(200, ReadySchema, description="It is ready", examples=examples.only(_READY))
        @here.alt_response(
            503,
            schema=ReadySchema,
            description="A check failed; `checks` says which",
            examples=examples.only(_NOT_READY),
        )
        @here.refuses(RateLimited)
        def get(self) -> tuple[dict[str, Any], int]:
            """Check that database, storage and dispatcher work and that a provider can be reached."""
            checks = {"database": _result(_check_database), "dispatcher": _result(_check_dispatcher)}
            providers = remote.results()
            checks["storage"] = providers.pop("storage", "not checked yet")
            ready = set(checks.values()) == {"ok"} and "ok" in providers.values()
            return {"status": "ready" if ready else "not ready", "checks": checks | providers}, 200 if ready else 503

    @here.route("/metrics")
    class Metrics(MethodView):
        @here.doc(operationId="getMetrics")
        @here.response(
            200,
            {"type": "string"},
            content_type="text/plain",
            description="Prometheus' text format",
            examples=examples.only('reelay_jobs{status="queued"} 3.0\n'),
        )
        def get(self) -> Response:
            """Jobs, attempts, times, sizes, costs and encoders."""
            return Response(services().metrics.text(), content_type=CONTENT_TYPE_LATEST)

    return here


class _RemoteChecks:
    """Whether storage and providers can be reached: checked by one thread at a time, at most every CACHED_S seconds.

    `/ready` is public, and a provider that hangs must not block more than one thread.
    """

    def __init__(self) -> None:
        self._checking = threading.Lock()
        self._results: dict[str, str] = {}
        self._checked_at = -CACHED_S

    def results(self) -> dict[str, str]:
        """The latest results by name: `storage`, `provider runpod`."""
        if time.monotonic() - self._checked_at > CACHED_S and self._checking.acquire(blocking=False):
            try:
                results = {f"provider {p.name}": _result(p.check) for p in services().providers.values()}
                self._results = results | {"storage": _result(_check_storage)}
                self._checked_at = time.monotonic()
            finally:
                self._checking.release()
        return dict(self._results) or {"providers": "not checked yet"}


class _CheckFailed(Exception):
    """The message is shown to the caller."""


def _check_database() -> None:
    store = services().store
    store.ping()
    if store.reserve.is_read_only():
        raise _CheckFailed("the disk of DATA_DIR is read-only")


def _check_dispatcher() -> None:
    here = services()
    if (here.store.lease_expires_at(HEARTBEAT_LEASE) or 0) < here.clock.now_ms():
        raise _CheckFailed("no dispatcher is running")


def _check_storage() -> None:
    here = services()
    if here.store.reserve.is_low():
        raise _CheckFailed("the disk of DATA_DIR is full")
    try:
        here.storage.check()
    except StorageFullError as error:
        raise _CheckFailed("the disk is full") from error
    free = here.storage.free_percent()
    if free < here.settings.min_free_disk_percent:
        raise _CheckFailed(f"only {free:.1f} % of the disk is free")


def _result(check: Callable[[], object]) -> str:
    try:
        check()
    except (_CheckFailed, ProviderError, StorageUnavailable) as error:
        return str(error)
    except (SQLAlchemyError, OSError) as error:
        return type(error).__name__
    return "ok"

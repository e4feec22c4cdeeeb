"""`/health` and `/ready`."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from gateway.dispatch.loop import HEARTBEAT_MS
from gateway.providers.base import Unavailable
from tests.gateway.conftest import FakeProvider, Gateway, Wire


def checks(client: FlaskClient, status: int) -> dict[str, str]:
    response = client.get("/ready")
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.get_json()["status"] == ("ready" if status == 200 else "not ready")
    return response.get_json()["checks"]  # type: ignore[no-any-return]


def test_health_needs_neither_database_nor_provider(client: FlaskClient, services: Gateway) -> None:
    services.provider.default["check"] = Unavailable("gone")
    with services.store._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE leases"))
    response = client.get("/health")
    assert (response.status_code, response.get_json()) == (200, {"status": "ok"})


def test_ready_when_all_is_well(client: FlaskClient, services: Gateway) -> None:
    services.dispatcher.tick()
    assert checks(client, 200) == {"database": "ok", "dispatcher": "ok", "storage": "ok", "provider fake": "ok"}


def test_without_a_dispatcher_it_is_not_ready(client: FlaskClient, services: Gateway) -> None:
    assert checks(client, 503)["dispatcher"] == "no dispatcher is running"
    services.dispatcher.tick()
    services.clock.advance(HEARTBEAT_MS + 1)
    assert checks(client, 503)["dispatcher"] != "ok"


def test_without_a_provider_it_is_not_ready(client: FlaskClient, services: Gateway) -> None:
    services.dispatcher.tick()
    services.provider.default["check"] = Unavailable("the worker cannot be reached")
    assert checks(client, 503)["provider fake"] == "the worker cannot be reached"


def test_one_provider_of_two_is_enough(app: Flask, client: FlaskClient, wire: Wire) -> None:
    broken = FakeProvider("broken")
    broken.default["check"] = Unavailable("gone")
    services = wire({"broken": broken, "fake": FakeProvider()})
    app.extensions["reelay"] = services
    services.dispatcher.tick()
    assert checks(client, 200)["provider broken"] == "gone"


def test_with_little_free_disk_it_is_not_ready(
    client: FlaskClient, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.dispatcher.tick()
    monkeypatch.setattr(services.storage, "free_percent", lambda: -1.0)
    assert "free" in checks(client, 503)["storage"]


def test_with_a_broken_database_it_is_not_ready_without_details(client: FlaskClient, services: Gateway) -> None:
    with services.store._engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE leases"))
    found = checks(client, 503)
    assert found["database"] == "OperationalError"
    assert "leases" not in str(found)

"""Around every route: trusted proxies, CORS and security headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from gateway import create_app
from gateway.settings import Settings
from gateway.wiring import Services
from tests.gateway.api.conftest import CAPTION
from tests.gateway.conftest import Wire

SHOP = "https://shop.example"
FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "444",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "for=203.0.113.9;host=evil.example;proto=https",
    "X-Real-IP": "203.0.113.9",
}

MakeApp = Callable[..., FlaskClient]


@pytest.fixture
def make_app(settings: Settings, wire: Wire, api_key: str) -> MakeApp:
    """A client with a key, of a gateway whose settings have `changes`; `/seen` shows what a view sees of a request."""

    def make(**changes: object) -> FlaskClient:
        app = create_app(replace(settings, **changes))  # type: ignore[arg-type]
        app.extensions["reelay"] = wire(**changes)
        app.add_url_rule("/seen", "docs.seen", lambda: [request.remote_addr, request.scheme, request.host])
        client = app.test_client()
        client.environ_base["HTTP_X_API_KEY"] = api_key
        return client

    return make


# Proxies


@pytest.mark.parametrize(
    ("hops", "chain", "address"),
    [
        (0, "203.0.113.9", "127.0.0.1"),
        (1, "203.0.113.9", "203.0.113.9"),
        (1, "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        (2, "198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (2, "192.0.2.7, 198.51.100.1, 203.0.113.9", "198.51.100.1"),
        (2, "203.0.113.9", "127.0.0.1"),
    ],
)
def test_as_many_proxies_are_trusted_as_configured(make_app: MakeApp, hops: int, chain: str, address: str) -> None:
    client = make_app(trusted_proxy_hops=hops)
    assert client.get("/seen", headers={**FORGED, "X-Forwarded-For": chain}).get_json()[0] == address


@pytest.mark.parametrize(("hops", "seen"), [(0, ["127.0.0.1", "http"]), (1, ["203.0.113.9", "https"])])
def test_only_a_proxy_sets_address_and_scheme_and_nothing_sets_the_host(
    make_app: MakeApp, hops: int, seen: list[str]
) -> None:
    response = make_app(trusted_proxy_hops=hops).get("/seen", headers=FORGED)
    assert response.get_json() == [*seen, "localhost"]
    assert response.headers.get("Strict-Transport-Security") == ("max-age=31536000" if hops else None)


def test_no_url_of_a_response_is_made_from_the_request(make_app: MakeApp) -> None:
    for hops in (0, 1):
        client = make_app(trusted_proxy_hops=hops)
        for headers in (FORGED, {"Host": "evil.example"}):
            job = client.post("/video/caption", json=CAPTION, headers=headers)
            assert job.headers["Location"].startswith("/jobs/")
            for answer in (job, client.get("/", headers=headers), client.get("/docs/", headers=headers)):
                assert "evil" not in answer.get_data(as_text=True) + str(answer.headers)


# Pages of other origins


def test_pages_of_an_allowed_origin_may_call(make_app: MakeApp) -> None:
    api = make_app(cors_origins=("https://other.example", SHOP + "/"))
    del api.environ_base["HTTP_X_API_KEY"]
    asked = api.options("/video/caption", headers={"Origin": SHOP, "Access-Control-Request-Method": "POST"})
    assert (asked.status_code, asked.data) == (204, b"")
    assert asked.headers["Access-Control-Allow-Origin"] == SHOP
    assert "X-API-Key" in asked.headers["Access-Control-Allow-Headers"]
    assert "POST" in asked.headers["Access-Control-Allow-Methods"]
    refused = api.post("/video/caption", json=CAPTION, headers={"Origin": SHOP})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, SHOP)
    assert "Location" in refused.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in refused.headers
    assert api.options("/jobs", headers={"Origin": SHOP}).status_code == 401, "this is no preflight request"


ALMOST = ["http://shop.example", f"{SHOP}:8443", f"{SHOP}.evil.example", "https://evilshop.example", f"{SHOP}/"]
ALMOST += [f"{SHOP}@evil.example", f"{SHOP}, https://evil.example", "null", "*", ""]


@pytest.mark.parametrize(("allowed", "origin"), [(SHOP, origin) for origin in ALMOST] + [("", SHOP)])
def test_other_origins_are_not_allowed(make_app: MakeApp, allowed: str, origin: str) -> None:
    api = make_app(cors_origins=(allowed,) if allowed else ())
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (api.get("/jobs", headers={"Origin": origin}), api.options("/jobs", headers=asked)):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
        assert not allowed or "Origin" in response.headers["Vary"]


# Headers


PATHS = ["/", "/docs", "/docs/", "/docs/swagger-ui.css", "/docs/none", "/openapi.json", "/health", "/jobs", "/nothing"]
PATHS += ["/llms.txt", "/docs/api.md", "/samples/none"]


@pytest.mark.parametrize("path", [*PATHS, "/metrics", "/files/x?signature=y", "/video/caption"])
def test_every_response_has_security_headers(api: FlaskClient, path: str) -> None:
    headers = api.get(path, buffered=True).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"  # signed URLs stay here
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert "script-src" not in policy or path.startswith("/docs/")
    assert "'unsafe-eval'" not in policy and "script-src 'self' 'unsafe-inline'" not in policy


def test_only_scripts_of_the_gateway_may_run(api: FlaskClient) -> None:
    response = api.get("/docs/")
    assert re.search("script-src ([^;]*)", response.headers["Content-Security-Policy"])[1] == "'self'"  # type: ignore[index]
    assert re.findall("<script(?! src=)|<[^>]* on[a-z]+=|javascript:", response.get_data(as_text=True)) == []


def test_responses_with_signed_urls_are_not_cached(api: FlaskClient, services: Services, app: Flask) -> None:
    job = api.post("/video/caption", json=CAPTION)
    for response in (job, api.get(job.headers["Location"]), api.get("/jobs")):
        assert response.headers["Cache-Control"] == "no-store"

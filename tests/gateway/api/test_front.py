"""What stands before every route: proxies, pages of other origins, headers that browsers obey."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
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
    """A client with a key, of a gateway whose settings have `changes`; `/seen` tells what a view sees of a request."""

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
def test_as_many_proxies_are_believed_as_settings_name(make_app: MakeApp, hops: int, chain: str, address: str) -> None:
    client = make_app(trusted_proxy_hops=hops)
    assert client.get("/seen", headers={**FORGED, "X-Forwarded-For": chain}).get_json()[0] == address


def test_without_a_proxy_no_header_tells_who_calls_and_how(make_app: MakeApp) -> None:
    response = make_app().get("/seen", headers=FORGED)
    assert response.get_json() == ["127.0.0.1", "http", "localhost"]
    assert "Strict-Transport-Security" not in response.headers


def test_behind_a_proxy_the_host_is_still_not_the_clients_to_choose(make_app: MakeApp) -> None:
    response = make_app(trusted_proxy_hops=1).get("/seen", headers=FORGED)
    assert response.get_json() == ["203.0.113.9", "https", "localhost"]
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_no_url_of_an_answer_is_made_from_the_request(make_app: MakeApp) -> None:
    for hops in (0, 1):
        client = make_app(trusted_proxy_hops=hops)
        for headers in (FORGED, {"Host": "evil.example"}):
            job = client.post("/video/caption", json=CAPTION, headers=headers)
            assert job.headers["Location"].startswith("/jobs/")
            for answer in (job, client.get("/", headers=headers), client.get("/docs/", headers=headers)):
                assert "evil" not in answer.get_data(as_text=True) + str(answer.headers)


# Pages of other origins


def test_no_page_of_another_origin_may_call_by_default(api: FlaskClient) -> None:
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}
    for response in (api.get("/jobs", headers={"Origin": SHOP}), api.options("/jobs", headers=asked)):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]


def test_pages_of_a_named_origin_may_ask_without_and_call_with_a_key(make_app: MakeApp) -> None:
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


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "*",
        "",
        "http://shop.example",
        "https://shop.example:8443",
        "https://shop.example.evil.example",
        "https://evilshop.example",
        "https://shop.example@evil.example",
        "https://shop.example/",
        "https://shop.example, https://evil.example",
    ],
)
def test_no_other_origin_passes_for_a_named_one(make_app: MakeApp, origin: str) -> None:
    api = make_app(cors_origins=(SHOP,))
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for response in (api.get("/jobs", headers={"Origin": origin}), api.options("/jobs", headers=asked)):
        assert not [name for name, _ in response.headers if name.startswith("Access-Control")]
        assert "Origin" in response.headers["Vary"]


def test_an_unasked_options_still_needs_a_key(make_app: MakeApp) -> None:
    api = make_app(cors_origins=(SHOP,))
    del api.environ_base["HTTP_X_API_KEY"]
    assert api.options("/jobs", headers={"Origin": SHOP}).status_code == 401


# Headers


PATHS = ["/", "/docs", "/docs/", "/docs/swagger-ui.css", "/docs/none", "/openapi.json", "/health", "/jobs", "/nothing"]


@pytest.mark.parametrize("path", [*PATHS, "/metrics", "/files/x?signature=y", "/video/caption"])
def test_every_answer_says_what_browsers_may_do_with_it(api: FlaskClient, path: str) -> None:
    headers = api.get(path, buffered=True).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"  # signed URLs stay here
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    policy = headers["Content-Security-Policy"]
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))
    assert "script-src" not in policy or path.startswith("/docs/")
    assert "'unsafe-eval'" not in policy and "script-src 'self' 'unsafe-inline'" not in policy


def test_the_script_of_the_documentation_runs_and_no_other(api: FlaskClient) -> None:
    response = api.get("/docs/", headers={"Host": "other.example"})
    (inline,) = re.findall(r"<script>(.*?)</script>", response.get_data(as_text=True), re.DOTALL)
    allowed = re.search(r"script-src ([^;]*)", response.headers["Content-Security-Policy"])
    assert allowed is not None
    assert allowed[1] == f"'self' 'sha256-{b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
    for source in re.findall(r'(?:src|href)="([^"]+)"', response.get_data(as_text=True)):
        assert source.startswith("/docs/")


def test_answers_with_signed_urls_are_kept_by_nobody(api: FlaskClient, services: Services, app: Flask) -> None:
    job = api.post("/video/caption", json=CAPTION)
    for response in (job, api.get(job.headers["Location"]), api.get("/jobs")):
        assert response.headers["Cache-Control"] == "no-store"

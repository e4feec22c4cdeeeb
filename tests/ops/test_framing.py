"""Requests that nginx and the gateway might read differently: none becomes a second request, and no route is bypassed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.gateway.api.live import API_KEY
from tests.gateway.api.test_odd_framing import CHUNKED, FRAMINGS, INSIDE
from tests.ops.nginx import NGINX, Front, pair
from tests.servers import eventually

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\nX-API-Key: " + API_KEY.encode() + b"\r\n\r\n"
LENGTH = f"Content-Length: {len(SMUGGLED)}"
# The headers, and a body that looks like a request if it is not taken for the body.
HIDDEN: dict[str, tuple[list[str], bytes]] = {
    "length and chunks": ([LENGTH, CHUNKED], b"0\r\n\r\n" + SMUGGLED),
    "chunks and length": ([CHUNKED, "Content-Length: 5"], b"0\r\n\r\n" + SMUGGLED),
    "two lengths": (["Content-Length: 0", LENGTH], SMUGGLED),
    "two lengths the other way": ([LENGTH, "Content-Length: 0"], SMUGGLED),
    "a list of lengths": ([f"Content-Length: 0, {len(SMUGGLED)}"], SMUGGLED),
    "a length with a sign": (["Content-Length: +0"], SMUGGLED),
    "a length with a blank": (["Content-Length : 0", LENGTH], SMUGGLED),
    "a folded length": (["X-A: b", " Content-Length: 0", LENGTH], SMUGGLED),
    "a folded coding": ([LENGTH, "X-A: b", "\tTransfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
    "a folded value": (["Transfer-Encoding:", " chunked", LENGTH], b"0\r\n\r\n" + SMUGGLED),
    "a coding in disguise": (["Transfer-Encoding: \x0bchunked", LENGTH], b"0\r\n\r\n" + SMUGGLED),
    "a coding in quotes": (['Transfer-Encoding: "chunked"', LENGTH], b"0\r\n\r\n" + SMUGGLED),
    "a coding with a comma": (["Transfer-Encoding: chunked,", LENGTH], b"0\r\n\r\n" + SMUGGLED),
    "two codings": (["Transfer-Encoding: identity", CHUNKED], b"0\r\n\r\n" + SMUGGLED),
    "a bare newline after a header": (["X-A: b\nContent-Length: 0", LENGTH], SMUGGLED),
    "a bare return": (["X-A: b\rTransfer-Encoding: chunked", LENGTH], b"0\r\n\r\n" + SMUGGLED),
    "a nul in a name": (["Content-Length\0: 0", LENGTH], SMUGGLED),
    "a nul in a value": ([f"Content-Length: {len(SMUGGLED)}\0"], SMUGGLED),
    "an underscore": (["Content_Length: 0", LENGTH], SMUGGLED),
    "a bare newline in a chunk": ([CHUNKED], b"0\n\n" + SMUGGLED),
    "a chunk's extension": ([CHUNKED], b"0;\n" + SMUGGLED + b"\r\n\r\n"),
    "trailers": ([CHUNKED], b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "expect": ([LENGTH, "Expect: 100-continue"], SMUGGLED),
    "upgrade": ([LENGTH, "Connection: Upgrade, Content-Length", "Upgrade: h2c"], SMUGGLED),
}
ROUTES = ["POST /files", "POST /video/caption", "GET /docs/", "PUT /files/x?signature=y"]
# Spellings of /metrics and /jobs, which need a key, and of what does not.
TARGETS = [
    *[
        "/%6detrics",
        "/metrics/",
        "//metrics",
        "/./metrics",
        "/docs/../metrics",
        "/docs/%2e%2e/metrics",
        "/docs/..%2fmetrics",
    ],
    *[
        "/health/../metrics",
        "/health;/../metrics",
        "/metrics;x",
        "/metrics%00",
        "/metrics%20",
        "/metrics#",
        "/docs//../jobs",
    ],
    *[
        "/docs/..;/metrics",
        "/files/../jobs",
        "/files/%2e%2e/jobs",
        "/files%2f..%2fjobs",
        "/allowed/../metrics",
        "/jobs%3f",
    ],
    *["http://x/metrics", "http://x//metrics", "http://metrics/jobs", "/health%3f/metrics", "/openapi.json/../metrics"],
    *[
        "/docs/%2e%2e%2fmetrics",
        "/docs/\\..\\metrics",
        "*",
        "metrics",
        "/%2fmetrics",
        "/health%0d%0aX: y",
        "/docs/.%2e/jobs",
    ],
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with pair(tmp_path_factory.mktemp("framing"), RUN_DISPATCHER="false") as both:
        yield both


def handled(site: Front) -> int:
    """How many hidden requests the gateway has handled."""
    return (site.gateway.services.settings.data_dir / "log").read_text().count('"path": "/smuggled"')


def forwarded(site: Front) -> int:
    """How many hidden requests nginx has read as requests."""
    return (site.gateway.services.settings.data_dir.parent / "access.log").read_text().count(" GET /smuggled ")


def exchanged(site: Front, request: bytes) -> bytes:
    """All that comes back until nginx closes the connection."""
    received = b""
    with site.front.dial() as connection:
        connection.sendall(request)
        connection.settimeout(0.4)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, TimeoutError):
            pass
    return received


@pytest.mark.parametrize("name", [*HIDDEN, *FRAMINGS])
def test_the_gateway_handles_no_request_that_nginx_has_not_read_as_one(site: Front, name: str) -> None:
    """nginx may take the hidden bytes for the next request of this client; the gateway then gets them as such."""
    headers, body = HIDDEN.get(name) or FRAMINGS[name]
    body, before = body.replace(INSIDE, SMUGGLED), handled(site) - forwarded(site)
    for route in ROUTES:
        head = [f"{route} HTTP/1.1", "Host: x", f"X-API-Key: {API_KEY}", "Content-Type: application/json", *headers]
        received = exchanged(site, "\r\n".join([*head, "", ""]).encode("latin-1") + body)
        assert b"Traceback" not in received
    eventually(lambda: handled(site) - forwarded(site) <= before)


def test_a_request_past_nginx_would_be_noticed(site: Front) -> None:
    before = handled(site) - forwarded(site)
    assert site.gateway.call("GET", "/smuggled").status_code == 404
    assert handled(site) - forwarded(site) == before + 1


def test_no_spelling_of_a_route_is_open_without_a_key(site: Front) -> None:
    for target in TARGETS:
        for server in (site.front, site.gateway):
            with server.dial() as connection:
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                connection.settimeout(10)
                received = b""
                while chunk := connection.recv(65536):
                    received += chunk
            assert not re.search(rb"reelay_|\"jobs\"", received), target
            assert not re.match(rb"HTTP/1\.1 5", received), (target, received)


def test_no_spelling_caches_a_response_of_another_route(site: Front) -> None:
    """The pages without a key are the only ones that nginx caches."""
    for target in (
        "/docs/../jobs",
        "/docs/%2e%2e/jobs",
        "/docs/..%2fjobs",
        "/docs/x%2f..%2f..%2fjobs",
        "/openapi.json/../jobs",
    ):
        with site.front.dial() as connection:
            connection.sendall(
                f"GET {target} HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nConnection: close\r\n\r\n".encode()
            )
            while connection.recv(65536):
                pass
        with site.front.dial() as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        assert b'"jobs"' not in received, target

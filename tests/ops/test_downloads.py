"""Downloads that nginx sends: every response is the same as the gateway's own, and nothing else is reached."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
import requests

from gateway.domain import ids
from gateway.signing import Signer
from tests.gateway.api.live import Live, live
from tests.gateway.conftest import SECRET_KEY
from tests.ops.nginx import NGINX, Front, pair
from wire.media_types import MEDIA_TYPES

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]

BODY = bytes(range(256)) * 20
SIZE = len(BODY)
PAGE = "https://pages.example"
# Of the connection, not of the file.
OF_THE_SERVER = {"date", "server", "connection", "keep-alive", "transfer-encoding"}
RANGES = [
    *[
        "bytes=0-0",
        "bytes=10-19",
        "bytes=1000-",
        "bytes=-8",
        "bytes=-0",
        "bytes=0-",
        f"bytes=-{SIZE}",
        "bytes=0-999999",
    ],
    *[
        f"bytes={SIZE - 1}-",
        f"bytes={SIZE}-",
        f"bytes=-{SIZE + 1}",
        "bytes=5-1",
        "bytes=0-0,5-6",
        "bytes=0-1,",
        "bytes=",
    ],
    *["bytes", "", "bytes=x-y", "bytes=--1", "lines=1-2", "Bytes=0-1", "bytes= 0-1", "bytes=0 - 1", "bytes=+0-1"],
    *["bytes=0_0-1", "bytes=0-" + "9" * 30, "bytes=" + "0" * 30 + "-1", "bytes=" + "9" * 30 + "-", "x" * 5000],
]
DATES = ["Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT", "yesterday"]
CONDITIONS = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"]


@dataclass(frozen=True)
class Site:
    """Two gateways on one folder: one with nginx in front, and one that sends files itself."""

    with_nginx: Front
    alone: Live

    def signed(self, key: str, more: bytes = BODY) -> str:
        """Store a file; return its path with a signature."""
        services = self.alone.services
        services.storage.write(key, [more], len(more))
        return self.url(key)

    def url(self, key: str, expires_in_ms: int = 600_000) -> str:
        services = self.alone.services
        url = services.storage.presign_get(key, expires_at=services.clock.now_ms() + expires_in_ms)
        return "/files" + url.partition("/files")[2]

    def by_nginx(self, path: str, **headers: str) -> bool:
        """Whether the gateway leaves the file of this request to nginx."""
        return "X-Accel-Redirect" in self.with_nginx.gateway.call("GET", path, key=None, headers=headers).headers

    def differences(self, method: str, path: str, **headers: str) -> list[str]:
        """What a client sees of one response and not of the other."""
        alone, fronted = (
            seen_of(server.call(method, path, key=None, headers={"X-Request-Id": "x", "Origin": PAGE, **headers}))
            for server in (self.alone, self.with_nginx.front)
        )
        return [f"{method} {headers}: {odd}" for odd in sorted(alone ^ fronted)]


def seen_of(response: requests.Response) -> set[str]:
    """Status, headers and body of a response."""
    headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in OF_THE_SERVER}
    if "expires" in headers:
        headers["expires"] = "now"
    if "allow" in headers:
        headers["allow"] = ", ".join(sorted(headers["allow"].split(", ")))
    return set(map(": ".join, headers.items())) | {str(response.status_code), repr(response.content)}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """nginx runs as another user than the gateway, where the tests may do that."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    more = {"CORS_ORIGINS": PAGE, "RUN_DISPATCHER": "false"}
    try:
        with (
            pair(folder, user="nobody nogroup", **more) as front,
            live(folder / "data", PUBLIC_URL=front.front.origin, TRUSTED_PROXY_HOPS="1", **more) as alone,
        ):
            yield Site(front, alone)
    finally:
        shutil.rmtree(folder)


def output_key(name: str = "video.mp4") -> str:
    return f"outputs/{ids.new('job', 1)}/{ids.new('att', 1)}/{name}"


@pytest.fixture(scope="module")
def video(site: Site) -> str:
    return site.signed(output_key())


def test_every_type_of_file_gets_the_same_headers(site: Site) -> None:
    keys = [output_key(f"file.{known.extension}") for known in MEDIA_TYPES.values()]
    for key in [*keys, f"uploads/{ids.new('key', 1)}/{ids.ulid(1)}"]:
        path = site.signed(key)
        assert site.by_nginx(path)
        for method in ("GET", "HEAD"):
            assert site.differences(method, path) == []
            assert site.differences(method, path, Origin="https://other.example") == []
            assert site.differences(method, path, Range="bytes=5-9") == []


def test_every_range_gets_the_same_response(site: Site, video: str) -> None:
    left_to_nginx = [asked for asked in RANGES if site.by_nginx(video, Range=asked)]
    assert set(RANGES[:5]) - {"bytes=-0"} <= set(left_to_nginx)
    for method, asked in product(("GET", "HEAD"), RANGES):
        assert site.differences(method, video, Range=asked) == []


def test_every_condition_gets_the_same_response(site: Site, video: str) -> None:
    sent = site.alone.call("GET", video, key=None).headers
    etag, modified = sent["ETag"], sent["Last-Modified"]
    assert site.by_nginx(video, **{"Range": "bytes=1-2", "If-Range": etag}), "a download that is resumed"
    values = [etag, f"W/{etag}", '"other"', "*", etag.strip('"'), f'"other", {etag}', modified, *DATES, ""]
    for name, value in product(CONDITIONS, values):
        assert site.differences("GET", video, **{name: value}) == []
        assert site.differences("GET", video, **{name: value, "Range": "bytes=1-2"}) == []
    assert site.differences("HEAD", video, **{"If-None-Match": etag}) == []
    for pair_of in product(CONDITIONS, CONDITIONS):
        assert site.differences("GET", video, **dict(zip(pair_of, (etag, modified), strict=True))) == []


def test_every_refusal_is_the_same(site: Site, video: str) -> None:
    missing, path = site.url(output_key()), video.partition("?")[0]
    for url in (missing, path, f"{video}x", f"{path}?signature=", site.url(output_key(), -1), "/files/x", "/files/"):
        for method in ("GET", "HEAD"):
            assert site.differences(method, url) == []
    for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
        assert site.differences(method, video) == []
        assert site.differences(method, "/files") == []
    empty = site.signed(output_key(), b"")
    assert site.differences("GET", empty) == [] and site.differences("GET", empty, Range="bytes=0-0") == []


def test_a_file_that_nginx_may_not_read_is_published_when_it_is_sent(site: Site) -> None:
    key = output_key()
    path = site.signed(key)
    assert (site.alone.services.settings.files_dir / key).stat().st_mode & 0o777 == 0o600
    assert site.with_nginx.front.call("GET", path, key=None).content == BODY


def test_headers_of_nginx_from_a_client_do_nothing(site: Site, video: str) -> None:
    secret = site.alone.services.settings.data_dir / "files" / "secret"
    secret.write_text("not for clients")
    front = site.with_nginx.front
    plain = seen_of(front.call("GET", video, key=None, headers={"X-Request-Id": "x"}))
    for value in ("/stored/secret", "/stored/../reelay.db", "secret", "@not_found"):
        forged = dict.fromkeys(("X-Accel-Redirect", "X-Sendfile", "X-Accel-Buffering", "X-Original-Uri"), value)
        assert seen_of(front.call("GET", video, key=None, headers={"X-Request-Id": "x", **forged})) == plain
        for path in ("/health", "/files/x", "/stored/secret", "/docs/"):
            assert b"not for clients" not in front.call("GET", path, headers=forged).content


SPELLINGS = [
    *["/stored/KEY", "//stored/KEY", "/./stored/KEY", "/stored//KEY", "/STORED/KEY", "/%73tored/KEY", "/stored%2fKEY"],
    *["/files/../stored/KEY", "/files/%2e%2e/stored/KEY", "/files/..%2fstored/KEY", "/docs/../stored/KEY", "/stored"],
    *["/files/KEY", "/files//KEY", "/files/./KEY", "/files/x/../KEY", "/files;/KEY", "/files/KEY;x", "/allowed"],
    *[
        "/stored/../reelay.db",
        "/stored/..%2freelay.db",
        "/files/../../reelay.db",
        "/stored/%2e%2e/secret_key",
        "/@refused",
    ],
]


def test_no_spelling_reaches_a_file_without_its_signature(site: Site) -> None:
    key = output_key()
    site.signed(key, b"not for clients")
    (site.alone.services.settings.data_dir / "secret_key").write_text("not for clients either")
    for spelling in SPELLINGS:
        target = spelling.replace("KEY", key)
        for request_target in (target, f"http://x{target}", f"{target}?signature=x"):
            received = raw(site.with_nginx.front, f"GET {request_target} HTTP/1.1")
            assert re.match(rb"HTTP/1\.1 (308|40[0134])", received), (request_target, received[:200])
            assert not re.search(rb"SQLite|not for clients", received)


def raw(server: Live, first: str) -> bytes:
    received = b""
    with server.dial() as connection:
        connection.sendall(f"{first}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("key", ["../reelay.db", "reelay.db", "outputs/x.mp4", "../../etc/passwd"])
def test_a_valid_signature_opens_only_storage_keys(site: Site, key: str) -> None:
    services = site.alone.services
    signature = Signer((SECRET_KEY,)).sign(f"file:{key}", ["GET", services.clock.now_ms() + 60_000, 0])
    received = raw(site.with_nginx.front, f"GET /files/{key}?signature={signature} HTTP/1.1")
    assert re.match(rb"HTTP/1\.1 40[0134]", received)


def test_links_in_the_storage_are_not_followed(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not for clients")
    key = output_key()
    path = site.signed(key)
    stored = site.alone.services.settings.files_dir / key
    stored.unlink()
    stored.symlink_to(secret)
    response = site.with_nginx.front.call("GET", path, key=None)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert secret.stat().st_mode & 0o777 == 0o644

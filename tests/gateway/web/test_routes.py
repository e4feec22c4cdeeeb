"""`/docs/`, `/llms.txt` and `/samples/`: public, cheap, and nothing but the files that are meant."""

from __future__ import annotations

import re

import pytest
from flask.testing import FlaskClient

from gateway.web import texts
from gateway.web.routes import MAX_AGE_S
from tests.conftest import SAMPLES

MARKDOWN = "text/markdown; charset=utf-8"
TYPES = {
    "/docs/": "text/html; charset=utf-8",
    "/docs/docs.js": "text/javascript; charset=utf-8",
    "/docs/docs.css": "text/css; charset=utf-8",
    "/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/llms.txt": MARKDOWN,
    "/docs/api.md": MARKDOWN,
    "/docs/first-hour.md": MARKDOWN,
    "/samples/README.md": MARKDOWN,
    "/samples/photo.jpg": "image/jpeg",
    "/samples/video.mp4": "video/mp4",
    "/samples/narration.mp3": "audio/mpeg",
    "/samples/music.mp3": "audio/mpeg",
    "/samples/captions.en.srt": "application/x-subrip",
}


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_root_redirects_to_the_documentation(client: FlaskClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.headers["Location"]) == (302, "/docs/")


def test_the_page_loads_nothing_from_other_hosts(client: FlaskClient) -> None:
    page = client.get("/docs/").get_data(as_text=True)
    loaded = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 5
    for source in loaded:
        assert re.match("/(docs/|llms.txt)", source), source
        assert client.get(source, buffered=True).status_code == 200


def test_every_link_of_the_page_leads_somewhere(client: FlaskClient) -> None:
    for link in re.findall('<a href="([^"]+)"', client.get("/docs/").get_data(as_text=True)):
        assert link.startswith("#/") or client.get(link, buffered=True).status_code == 200, link


@pytest.mark.parametrize("path", TYPES)
def test_a_file_has_its_type_and_may_be_cached(client: FlaskClient, path: str) -> None:
    response = client.get(path, buffered=True)
    assert (response.status_code, response.headers["Content-Type"]) == (200, TYPES[path])
    control = response.headers["Cache-Control"]
    assert f"max-age={MAX_AGE_S}" in control and "no-store" not in control and "private" not in control
    again = client.get(path, headers={"If-None-Match": response.headers["ETag"]}, buffered=True)
    assert (again.status_code, again.data) == (304, b"")
    head = client.head(path, buffered=True)
    assert (head.status_code, head.data, head.headers["ETag"]) == (200, b"", response.headers["ETag"])
    assert int(head.headers["Content-Length"]) == len(response.data) > 0


@pytest.mark.parametrize("name", texts.SAMPLES)
def test_a_sample_comes_whole_and_in_parts(client: FlaskClient, name: str) -> None:
    data = (SAMPLES / name).read_bytes()
    assert client.get(f"/samples/{name}", buffered=True).data == data
    part = client.get(f"/samples/{name}", headers={"Range": "bytes=10-19"}, buffered=True)
    assert (part.status_code, part.data) == (206, data[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(data)}"


def test_a_sample_may_be_embedded_and_runs_nothing(client: FlaskClient) -> None:
    headers = client.get("/samples/video.mp4", buffered=True).headers
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "sandbox" in headers["Content-Security-Policy"] and "script-src" not in headers["Content-Security-Policy"]


OUTSIDE = ["../__init__.py", "%2e%2e/__init__.py", "..%2f__init__.py", "/etc/passwd", "%00", "x" * 5000, "..", "."]
OUTSIDE += ["swagger-ui.js", "index.html", "oauth2-redirect.html", "../README.md", "..%2fREADME.md", "README.md.md"]
OUTSIDE += ["../SECURITY.md", "%2e%2e%2fSECURITY.md", "api.md/", "API.md", "api.md%00", "none.md", "LICENSE", ".env"]


@pytest.mark.parametrize("folder", ["docs", "samples"])
def test_nothing_else_is_served(client: FlaskClient, folder: str) -> None:
    for path in OUTSIDE:
        if f"{folder}/{path}" != "docs/api.md/":  # a slash at the end changes nothing
            response = client.get(f"/{folder}/{path}", buffered=True)
            assert response.status_code in {401, 404, 308}, path
            assert "public" not in response.headers.get("Cache-Control", "")


def test_the_pages_count_against_the_limit_of_an_address(client: FlaskClient) -> None:
    for path in ("/docs/", "/docs/api.md", "/llms.txt", "/samples/photo.jpg"):
        assert int(client.get(path, buffered=True).headers["RateLimit-Limit"]) == 600

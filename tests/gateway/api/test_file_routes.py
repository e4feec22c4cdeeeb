"""`/files`: signed URLs, uploads and downloads; only complete files are ever stored.

Foreign and damaged signatures are in `test_foreign_tokens.py`, real connections in `test_threads.py`.
"""

from __future__ import annotations

import errno
import json
import os
import re
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from urllib3 import encode_multipart_formdata
from werkzeug.test import TestResponse

from gateway.access.thread_limits import TRANSFERS
from gateway.domain import ids
from tests.gateway.api.conftest import CAPTION, VIDEO, Worker, assert_problem, local
from tests.gateway.conftest import START_MS, Gateway, Wire

SIZE = len(VIDEO)
DAY_MS = 24 * 3600 * 1000
EMPTY = {"CONTENT_LENGTH": "0"}


def fetch(client: FlaskClient, url: str, method: str = "GET", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.open(url, method=method, headers=named, buffered=True)


def stored(services: Gateway) -> list[Path]:
    """All files, including unfinished ones."""
    return [path for path in services.settings.files_dir.rglob("*") if path.is_file()]


def signed(services: Gateway, method: str, key: str, *, size: int = 0, expires_in_ms: int = 60_000) -> str:
    expires_at = services.clock.now_ms() + expires_in_ms
    if method == "PUT":
        return local(services.storage.presign_put(key, max_bytes=size, expires_at=expires_at).url)
    return local(services.storage.presign_get(key, expires_at=expires_at))


@pytest.fixture
def video(api: FlaskClient, worker: Worker) -> str:
    """The URL of a finished video of SIZE bytes."""
    worker.finish()
    return local(api.get(f"/jobs/{worker.job_id}").get_json()["video_url"])


# Storing an output


def test_an_output_may_be_stored_again_until_its_job_has_ended(
    api: FlaskClient, worker: Worker, services: Gateway
) -> None:
    assert worker.put(b"first try").status_code == 201
    worker.finish()
    assert [path.read_bytes() for path in stored(services)] == [VIDEO]
    assert_problem(worker.put(b"something else"), 409, "attempt_superseded")
    url = api.get(f"/jobs/{worker.job_id}").get_json()["video_url"]
    assert fetch(worker.client, local(url)).data == VIDEO


def test_nothing_can_be_added_to_a_signed_url(client: FlaskClient, video: str, services: Gateway) -> None:
    """Method, key, expiry and size are part of the signature."""
    path, _, signature = video.partition("?signature=")
    content, _, mac = signature.rpartition(".")
    granted = json.loads(b64decode(content + "=" * (-len(content) % 4), altchars=b"-_"))
    assert granted == ["GET", services.clock.now_ms() + services.settings.url_ttl_seconds * 1000, 0]
    for changed in (["PUT", granted[1], 10**9], ["GET", granted[1] + 10**9, 0], ["HEAD", *granted[1:]], "GET", []):
        forged = b64encode(json.dumps(changed).encode(), altchars=b"-_").decode().rstrip("=")
        for ending in (mac, "", mac[::-1]):
            assert_problem(fetch(client, f"{path}?signature={forged}.{ending}"), 403, "signature_invalid")
            assert_problem(client.put(f"{path}?signature={forged}.{ending}", data=b"x"), 403, "signature_invalid")
    for query in (f"signature=x&signature={signature}", f"expires_at=9999999999999&max_bytes=1&signature=x.{mac}"):
        assert_problem(fetch(client, f"{path}?{query}"), 403, "signature_invalid")


def test_a_video_url_expires(client: FlaskClient, video: str, services: Gateway) -> None:
    services.clock.advance(services.settings.url_ttl_seconds * 1000 - 1)
    assert fetch(client, video).status_code == 200
    services.clock.advance(1)
    assert_problem(fetch(client, video), 403, "signature_invalid")


@pytest.mark.parametrize("length", ["x", "-5", "1.5", "", "0", "chunked", f"{SIZE + 1}"])
def test_a_missing_invalid_or_wrong_length_is_refused(
    api: FlaskClient, worker: Worker, services: Gateway, length: str
) -> None:
    more: dict[str, Any] = {"environ_overrides": {"CONTENT_LENGTH": length}}
    if length == "chunked":
        more = {"headers": {"Transfer-Encoding": "chunked"}}
    for _ in range(services.settings.threads):
        for client, method, path in ((worker.client, "PUT", worker.upload), (api, "POST", "/files")):
            response = client.open(path, method=method, input_stream=BytesIO(VIDEO), **more)
            assert response.status_code in {400, 411}
    assert stored(services) == []
    assert worker.put().status_code == 201, "no thread is held"


def test_the_signed_size_is_the_limit(worker: Worker, services: Gateway) -> None:
    key = worker.upload.partition("?")[0].removeprefix("/files/")
    url = signed(services, "PUT", key, size=SIZE)
    assert_problem(worker.client.put(url, data=VIDEO + b"x"), 413, "payload_too_large")
    assert stored(services) == []
    assert worker.client.put(url, data=VIDEO).status_code == 201


def test_a_superseded_or_cancelled_attempt_stores_nothing(api: FlaskClient, worker: Worker, services: Gateway) -> None:
    worker.report("started")
    worker.report("failed", error={"code": "worker_error", "message": "?", "retryable": True})
    assert_problem(worker.put(), 409, "attempt_superseded")
    services.clock.advance(60_000)
    services.turn()
    assert_problem(worker.put(), 409, "attempt_superseded")
    api.delete(f"/jobs/{worker.job_id}")
    assert_problem(worker.put(), 409, "attempt_superseded")
    assert stored(services) == []


@pytest.mark.parametrize(("meanwhile", "left"), [("cancel", []), ("finish", [VIDEO])])
def test_an_upload_whose_attempt_ends_meanwhile_is_dropped(
    api: FlaskClient, worker: Worker, services: Gateway, meanwhile: str, left: list[bytes]
) -> None:
    class Body(BytesIO):
        """Before its last chunk, the job is cancelled, or the worker completes another upload."""

        def readinto(self, buffer: Any) -> int:
            worker.finish() if meanwhile == "finish" else api.delete(f"/jobs/{worker.job_id}")
            return super().readinto(buffer)

    response = worker.client.put(worker.upload, input_stream=Body(b"x" * SIZE), headers={"Content-Length": str(SIZE)})
    assert_problem(response, 409, "attempt_superseded")
    assert [path.read_bytes() for path in stored(services)] == left


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_and_leaves_nothing(
    worker: Worker, services: Gateway, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        response = worker.put()
    assert_problem(response, 507, "storage_low")
    assert "Retry-After" in response.headers
    assert stored(services) == []
    assert worker.put().status_code == 201


def test_with_little_free_disk_only_outputs_are_accepted(
    api: FlaskClient, worker: Worker, services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.storage, "free_percent", lambda: -0.1)
    assert worker.put().status_code == 201
    assert_problem(api.post("/files", data=VIDEO), 507, "storage_low")
    assert [path.read_bytes() for path in stored(services)] == [VIDEO]


def test_log_lines_of_an_output_have_its_ids(worker: Worker, video: str) -> None:
    whose = {"job_id": worker.job_id, "attempt_id": worker.attempt_id}
    for call, status in ((lambda: worker.put(), 409), (lambda: fetch(worker.client, video), 200)):
        structlog.contextvars.clear_contextvars()
        assert call().status_code == status
        assert whose.items() <= structlog.contextvars.get_contextvars().items()
    structlog.contextvars.clear_contextvars()
    fetch(worker.client, video + "x")
    assert "job_id" not in structlog.contextvars.get_contextvars()


# Reading


def test_a_video_is_sent(client: FlaskClient, video: str) -> None:
    response = fetch(client, video)
    assert (response.status_code, response.data) == (200, VIDEO)
    assert response.mimetype == "video/mp4"
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    etag, modified = response.headers["ETag"], response.headers["Last-Modified"]
    head = fetch(client, video, "HEAD")
    assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(SIZE))
    for headers in ({"If_None_Match": etag}, {"If_Modified_Since": modified}):
        assert (fetch(client, video, **headers).status_code, fetch(client, video, **headers).data) == (304, b"")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1000-", 1000, SIZE - 1),
        ("bytes=-8", SIZE - 8, SIZE - 1),
        ("bytes=0-999999", 0, SIZE - 1),
        (f"bytes=-{SIZE}", 0, SIZE - 1),
    ],
)
def test_a_range_is_sent(client: FlaskClient, video: str, asked: str, first: int, last: int) -> None:
    response = fetch(client, video, Range=asked)
    assert (response.status_code, response.data) == (206, VIDEO[first : last + 1])
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert response.headers["Content-Length"] == str(last - first + 1)


def test_other_ranges_are_ignored_or_refused(client: FlaskClient, video: str) -> None:
    etag = fetch(client, video).headers["ETag"]
    assert fetch(client, video, Range="bytes=0-9", If_Range=etag).status_code == 206
    assert fetch(client, video, Range="bytes=0-9", If_Range='"older"').data == VIDEO
    for asked in (f"bytes={SIZE}-", "bytes=999999-1000000"):
        response = fetch(client, video, Range=asked)
        assert_problem(response, 416, "range_not_satisfiable")
        assert response.headers["Content-Range"] == f"bytes */{SIZE}"
    for asked in ("", "bytes", "bytes=", "bytes=x-y", "bytes=5-1", "lines=1-2", "bytes=--1", "x" * 5000):
        assert fetch(client, video, Range=asked).status_code in {200, 416}


def test_no_kind_of_download_keeps_a_thread(client: FlaskClient, video: str, services: Gateway) -> None:
    etag = fetch(client, video).headers["ETag"]
    for _ in range(services.settings.threads):
        fetch(client, video)
        fetch(client, video, "HEAD")
        fetch(client, video, Range="bytes=0-1")
        fetch(client, video, Range="bytes=999999-")
        fetch(client, video, If_None_Match=etag)
        fetch(client, video, If_Match='"other"')
    assert fetch(client, video).status_code == 200
    for path in stored(services):
        path.unlink()
    for _ in range(services.settings.threads):
        assert_problem(fetch(client, video), 404, "not_found")


SPELLINGS = [
    "../reelay.db",
    "..%2freelay.db",
    "%2e%2e/reelay.db",
    "%2e%2e%2freelay.db",
    "..%252freelay.db",
    "..%5creelay.db",
    "outputs/../../reelay.db",
    "outputs/%2e%2e/%2e%2e/reelay.db",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "//etc/passwd",
    "%00",
    "outputs%00/x.mp4",
    "secret_key",
    ".",
    "..",
    "%ff%fe",
    "%ed%a0%80",
    "con",
    "uploads",
    "outputs/",
]
SPELLINGS += ["x" * 6000, "a/" * 3000]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_no_path_leads_out_of_the_storage(
    client: FlaskClient, api: FlaskClient, services: Gateway, method: str
) -> None:
    (services.settings.data_dir / "secret_key").write_text("not for clients")
    for spelling in SPELLINGS:
        for caller in (client, api):
            response = caller.open(f"/files/{spelling}?signature=x.y", method=method, data=b"x", buffered=True)
            assert response.status_code in {308, 401, 403, 404, 405}, spelling
            assert not re.search(b"SQLite|root:|not for clients", response.data)
    assert stored(services) == []


@pytest.mark.parametrize("key", ["../reelay.db", "reelay.db", "outputs/x.mp4", "../../etc/passwd", "outputs/a\x00.mp4"])
def test_a_valid_signature_opens_only_storage_keys(client: FlaskClient, services: Gateway, key: str) -> None:
    """The gateway never creates such a signature; the path is checked nevertheless."""
    signature = services.signer.sign(f"file:{key}", ["GET", services.clock.now_ms() + 1000, 0])
    response = client.get(f"/files/{quote(key)}?signature={signature}", buffered=True)
    assert_problem(response, 404, "not_found")


@pytest.mark.parametrize("depth", range(4), ids=["file", "folder of the attempt", "of the job", "of outputs"])
def test_symbolic_links_in_the_storage_are_not_followed(
    worker: Worker, services: Gateway, tmp_path: Path, depth: int
) -> None:
    """The target of a link is neither sent, nor replaced, nor listed, nor removed."""
    key = worker.upload.partition("?")[0].removeprefix("/files/")
    link = (services.settings.files_dir / key, *(services.settings.files_dir / key).parents)[depth]
    secret = tmp_path.joinpath("outside", *(key.split("/")[4 - depth :] or ["x"]))
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_bytes(b"not for clients")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret if depth == 0 else tmp_path / "outside")
    assert_problem(fetch(worker.client, signed(services, "GET", key)), 404, "not_found")
    assert worker.put().status_code == 500
    assert services.storage.size(key) is None
    assert depth == 0 or key not in set(services.storage.keys())
    services.storage.delete(key)
    services.storage.tidy()
    assert secret.read_bytes() == b"not for clients"
    assert [path for path in (tmp_path / "outside").rglob("*") if path.is_file()] == [secret]


# Uploads


def upload(api: FlaskClient, body: bytes = VIDEO, **kwargs: Any) -> TestResponse:
    return api.post("/files", data=body, **kwargs)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "", "video/mp4", "odd;;"])
def test_an_upload_gets_a_url_whatever_its_media_type(
    api: FlaskClient, client: FlaskClient, other_client: FlaskClient, content_type: str
) -> None:
    response = upload(api, content_type=content_type)
    answer = response.get_json()
    assert response.status_code == 201
    assert (answer["size_bytes"], answer["expiresAt"]) == (SIZE, "2023-11-15T22:13:20.000Z")
    assert fetch(client, local(answer["url"])).data == VIDEO
    assert api.post("/video/caption", json={**CAPTION, "url_video": answer["url"]}).status_code == 202
    urls = {answer["url"], upload(api).get_json()["url"], upload(other_client).get_json()["url"]}
    assert (len(urls), len({url.split("/")[-2] for url in urls})) == (3, 2)


def test_an_upload_is_never_shown_as_a_page(api: FlaskClient, client: FlaskClient) -> None:
    """It does not keep the client's media type, and if a browser shows it nevertheless, nothing in it runs."""
    page = b"1\n00:00:01,000 --> 00:00:02,000\n<script>alert(1)</script>\n"
    url = local(upload(api, page, content_type="text/html").get_json()["url"])
    response = fetch(client, url)
    assert (response.mimetype, response.data) == ("application/octet-stream", page)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Content-Disposition"].startswith("attachment; filename=")
    assert {"default-src 'none'", "sandbox"} <= set(response.headers["Content-Security-Policy"].split("; "))


def test_any_page_may_play_a_video_and_no_proxy_caches_it(worker: Worker, video: str) -> None:
    for response in (fetch(worker.client, video), fetch(worker.client, video, Range="bytes=0-1")):
        assert response.headers["Content-Disposition"] == f"inline; filename={worker.job_id}-video.mp4"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert "private" in response.headers["Cache-Control"]
        assert "sandbox" in response.headers["Content-Security-Policy"]


NOT_MEDIA = [
    *[
        b"x",
        b"<!doctype html><script>alert(1)</script>",
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    ],
    *[b"<html><!--\n00:00:01,000 --> 00:00:02,000\n--><script>alert(1)</script>", b"MZ\x90\0", b"\x7fELF\x02\x01\x01"],
    *[b"PK\x03\x04", b"\x1f\x8b\x08\0", b"%PDF-1.7", b"#!/bin/sh\n", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"],
    *[b"ffconcat version 1.0\nfile /etc/passwd\n", b"RIFF\x04\0\0\0CDDA", b"a=b&c=d", b"\0" * 70_000],
    b"x" * 70_000 + b"00:00:01,000 --> 00:00:02,000",
]


def test_files_other_than_media_are_refused_by_content(api: FlaskClient, services: Gateway) -> None:
    for body in NOT_MEDIA:
        for content_type in ("video/mp4", ""):
            assert_problem(upload(api, body, content_type=content_type), 415, "file_not_media")
    assert stored(services) == []
    assert upload(api).status_code == 201, "no thread is held"


def test_the_url_of_an_upload_is_valid_for_the_longest_job(
    services: Gateway, api: FlaskClient, client: FlaskClient
) -> None:
    url = local(upload(api).get_json()["url"])
    services.clock.advance(DAY_MS + 3 * (3600 + 600 + 120) * 1000 - 1)
    assert fetch(client, url).status_code == 200
    services.clock.advance(1)
    assert_problem(fetch(client, url), 403, "signature_invalid")


def test_the_url_of_an_upload_accepts_no_other_file(api: FlaskClient, client: FlaskClient, services: Gateway) -> None:
    url = local(upload(api).get_json()["url"])
    assert_problem(client.put(url, data=b"x"), 403, "signature_invalid")
    key = f"uploads/{ids.new('key', START_MS)}/{ids.ulid(START_MS)}"
    assert_problem(client.put(signed(services, "PUT", key, size=9), data=b"x"), 409, "attempt_superseded")


def form(api: FlaskClient, fields: dict[str, Any]) -> TestResponse:
    body, content_type = encode_multipart_formdata(fields)
    return api.post("/files", data=body, content_type=content_type)


@pytest.mark.parametrize("body", [VIDEO, b"ID3\r\n--\r\n" * 100_000], ids=["a small file", "a megabyte"])
def test_the_only_file_of_a_form_is_stored(
    api: FlaskClient, client: FlaskClient, services: Gateway, body: bytes
) -> None:
    fields = {"note": "ignored", "data": ("v.mp4", body), "file": "text"}
    response = form(api, fields)
    assert (response.status_code, response.get_json()["size_bytes"]) == (201, len(body))
    assert fetch(client, local(response.get_json()["url"])).data == body
    assert [path.stat().st_size for path in stored(services)] == [len(body)]


@pytest.mark.parametrize(
    ("fields", "status", "code", "says"),
    [
        ({}, 400, "bad_request", "no file"),
        ({"file": "photo.jpg"}, 400, "bad_request", "no file"),
        ({"a": ("a.mp4", VIDEO), "b": ("b.mp4", VIDEO)}, 400, "bad_request", "several files"),
        ({"file": ("a.mp4", b"")}, 400, "bad_request", "empty"),
        ({"file": ("a.mp4", b"<html>")}, 415, "file_not_media", ""),
        ({"file": ("a" * 1_000_000, VIDEO)}, 413, "payload_too_large", ""),
        ({"file": ("a.mp4", VIDEO), **{f"f{i}": "x" for i in range(100)}}, 413, "payload_too_large", ""),
    ],
    ids=["nothing", "text", "two files", "an empty file", "no media", "a long header", "101 parts"],
)
def test_a_form_without_exactly_one_file_stores_nothing(
    api: FlaskClient, services: Gateway, fields: dict[str, Any], status: int, code: str, says: str
) -> None:
    document = assert_problem(form(api, fields), status, code)
    assert says in document.get("detail", "")
    assert stored(services) == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=b", b"no boundary"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nID3"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nID3\r\n--b",
        ),
        ("multipart/form-data; boundary=\u00fc", b"--\xfc\r\n"),
    ],
)
def test_a_malformed_form_stores_nothing(api: FlaskClient, services: Gateway, content_type: str, body: bytes) -> None:
    assert_problem(api.post("/files", data=body, content_type=content_type), 400, "bad_request")
    assert stored(services) == []


def test_the_file_of_a_form_is_limited_to_the_maximum_size(api: FlaskClient, app: Flask, wire: Wire) -> None:
    app.extensions["reelay"] = wire(max_asset_bytes=200_000)
    for size, status in ((200_000, 201), (200_001, 413), (300_000, 413)):
        assert form(api, {"file": ("a.mp3", b"ID3".ljust(size, b"x"))}).status_code == status
    assert [path.stat().st_size for path in stored(app.extensions["reelay"])] == [200_000]


def test_other_multipart_bodies_are_refused_with_a_hint(api: FlaskClient) -> None:
    response = api.post("/files", data=b"--b\r\n", content_type="multipart/mixed; boundary=b")
    assert "--data-binary" in assert_problem(response, 415, "unsupported_media_type")["detail"]


def test_uploads_are_limited_to_the_maximum_size(api: FlaskClient, app: Flask, wire: Wire) -> None:
    app.extensions["reelay"] = wire(max_asset_bytes=2_000_000)
    assert upload(api, b"ID3".ljust(2_000_000, b"x")).status_code == 201
    assert_problem(upload(api, b"ID3".ljust(2_000_001, b"x")), 413, "payload_too_large")
    assert [path.stat().st_size for path in stored(app.extensions["reelay"])] == [2_000_000]


def test_without_a_free_transfer_thread_responses_have_retry_after(
    api: FlaskClient, worker: Worker, services: Gateway
) -> None:
    url = local(upload(api).get_json()["url"])
    others = [f"key_{number}" for number in range(TRANSFERS)]
    held = [key for key in others if services.thread_limits.transfers.take(key)]
    for response in (upload(api), worker.put(), fetch(worker.client, url)):
        assert_problem(response, 503, "transfers_busy")
        assert int(response.headers["Retry-After"]) >= 1
    for key in held:
        services.thread_limits.transfers.give_back(key)
    assert worker.put().status_code == 201
    assert fetch(worker.client, url).status_code == 200

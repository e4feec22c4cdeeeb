"""Fetching one asset: what is tried again, what a page is called, and that nothing of a URL is told."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common import safe_http
from ffmpeg_ops.operation import Work
from handler import share_links
from handler.fetch import fetch
from tests.conftest import ROOT
from tests.servers import FileServer, Reply, Request
from wire.errors import AssetInvalid, AssetUnavailable, JobError

OLD, NEW = b"old" * 10_000, b"new" * 20_000
PAGE = b"<!DOCTYPE html><html><body>Sign in to go on</body></html>"


@pytest.fixture
def got(files: FileServer, tmp_path: Path) -> Callable[[], bytes]:
    """Fetches `/x` of `files`, by a URL with secrets."""

    def fetch_it() -> bytes:
        url = files.url("/x?token=s3cret#fragm3nt")
        return fetch(url, "url_video", Work(tmp_path), deadline_s=20, allow_origins=(files.origin,)).read_bytes()

    return fetch_it


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    left = list(replies)
    return lambda request: left.pop(0)


def broken(body: bytes, etag: str) -> Reply:
    return Reply(200, body[:10_000], {"ETag": etag}, content_length=len(body))


def part(body: bytes, etag: str) -> Reply:
    return Reply(206, body[10_000:], {"ETag": etag, "Content-Range": f"bytes 10000-{len(body) - 1}/{len(body)}"})


# ---- broken and slow


def test_a_broken_download_costs_its_missing_part_alone(files: FileServer, got: Callable[[], bytes]) -> None:
    files.routes["/x"] = in_turn(broken(OLD, '"1"'), part(OLD, '"1"'))
    assert got() == OLD
    assert [request.headers.get("Range") for request in files.requests] == [None, "bytes=10000-"]


@pytest.mark.parametrize("second", [part(NEW, '"2"'), Reply(200, NEW, {"ETag": '"2"'}), Reply(412), Reply(404)])
def test_a_file_that_changed_meanwhile_is_fetched_anew_and_never_mixed(
    second: Reply, files: FileServer, got: Callable[[], bytes]
) -> None:
    files.routes["/x"] = in_turn(broken(OLD, '"1"'), second, Reply(200, NEW, {"ETag": '"2"'}))
    assert got() == NEW
    assert "Range" not in files.requests[2].headers


def test_a_shorter_file_leaves_nothing_of_the_longer_one(files: FileServer, got: Callable[[], bytes]) -> None:
    files.routes["/x"] = in_turn(broken(OLD, '"1"'), Reply(503), Reply(200, b"short"))
    assert got() == b"short"


def test_a_server_that_always_breaks_off_is_given_up(files: FileServer, got: Callable[[], bytes]) -> None:
    files.routes["/x"] = lambda request: (
        Reply(206, b"y", part(OLD, '"1"').headers, content_length=20_000)
        if "Range" in request.headers
        else broken(OLD, '"1"')
    )
    with pytest.raises(AssetUnavailable):
        got()
    assert [("Range" in request.headers) for request in files.requests] == [False, True] * 3


def test_a_server_that_trickles_is_given_up_at_once(
    files: FileServer, got: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_http, "PACE_WINDOW_S", 0.3)
    files.routes["/x"] = Reply(200, OLD, {"ETag": '"1"'}, trickle_s=0.02)
    with pytest.raises(AssetUnavailable, match=r"^url_video: .* too slowly\.$"):
        got()
    assert len(files.requests) == 1


# ---- pages where a file was meant


@pytest.mark.parametrize(
    "page",
    [
        PAGE,
        b"\n\n \t<html lang=pt>",
        b"\xef\xbb\xbf<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
        b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0 Strict//EN'>",
        b"<!-- saved --><!-- twice -->\n<html>",
        b"<head><meta charset=utf-8>",
        b"<script>location='/login'</script>",
        b"<TITLE>Google Drive - Virus scan warning</TITLE>",
        b"<html>1\n00:00:00,000 --> 00:00:01,000\nSign in\n",
    ],
)
def test_a_page_is_called_one(page: bytes, files: FileServer, got: Callable[[], bytes]) -> None:
    files.routes["/x"] = Reply(200, page, {"Content-Type": "video/mp4"})
    with pytest.raises(AssetInvalid) as caught:
        got()
    assert caught.value.message == "url_video: the URL returned a web page, not a file."
    assert len(files.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"1\n00:00:00,000 --> 00:00:01,000\n<html>\n",
        b"WEBVTT\n\n00:00.000 --> 00:01.000\n<b>Hi</b>\n",
        b"<i>no number</i>\n00:00:00,000 --> 00:00:01,000\nHi\n",
        b"<?xml version='1.0'?><svg/>",
        b"<header>",
        b"<!--" * 100,
        b"<!---->" * 200,
        b"<htmlx",
        b"\0\0\0\x18ftypisom",
    ],
)
def test_what_only_looks_a_little_like_a_page_is_left_to_the_operation(
    body: bytes, files: FileServer, got: Callable[[], bytes]
) -> None:
    files.routes["/x"] = Reply(200, body, {"Content-Type": "text/html"})
    assert got() == body


SHARED = {
    "https://drive.google.com/file/d/s3cretId/view?usp=sharing": "uc?export=download&id=FILE_ID",
    "https://drive.google.com/open?id=s3cretId": "uc?export=download&id=FILE_ID",
    "https://drive.google.com/uc?export=download&id=s3cretId": "confirm=t&id=FILE_ID",
    "https://drive.usercontent.google.com/download?id=s3cretId": "confirm=t&id=FILE_ID",
    "https://me:s3cret@WWW.Dropbox.com/scl/fi/s3cret/a.mp4?rlkey=s3cret&dl=0#s3cret": "dl=1",
    "https://www.dropbox.com./s/s3cret/a.mp4?dl=0": "dl=1",
    "https://1drv.ms/v/s!s3cret": "download=1",
    "https://onedrive.live.com/?id=s3cret": "download=1",
    "https://acme-my.sharepoint.com/:v:/g/personal/s3cret?e=s3cret": "download=1",
    "https://we.tl/t-s3cret": "WeTransfer has no direct links",
    "https://wetransfer.com/downloads/s3cret": "WeTransfer has no direct links",
    "https://www.youtube.com/watch?v=s3cret": "YouTube",
    "https://youtu.be/s3cret?si=x": "YouTube",
    "https://www.tiktok.com/@s3cret/video/1": "TikTok",
    "https://vm.tiktok.com/s3cret/": "TikTok",
    "https://www.instagram.com/reel/s3cret/": "Instagram",
    "https://github.com/s3cret/s3cret/blob/main/a.mp4": "Raw",
}


@pytest.mark.parametrize(("url", "says"), SHARED.items())
def test_for_known_services_the_way_to_the_file_is_told_and_nothing_of_the_url(url: str, says: str) -> None:
    told = share_links.explain(url)
    assert told.startswith(f"{share_links.NOT_A_FILE} ") and says in told
    assert "s3cret" not in told.lower()


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/s3cret",
        "https://dropbox.com.evil.example/x",
        "https://notdropbox.com/x",
        "https://dropbox.com@evil.example/",
        "https://evil.example/dropbox.com",
        "https://dl.dropboxusercontent.com/x",
        "https://[2606:4700::1111]/x",
        "https://com/",
    ],
)
def test_of_other_hosts_it_is_told_that_it_is_a_page(url: str) -> None:
    assert share_links.explain(url) == share_links.NOT_A_FILE


def test_the_hint_is_in_the_error(files: FileServer, got: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(share_links._HINTS, urlsplit(files.origin).hostname or "", "Do this.")
    files.routes["/x"] = Reply(200, PAGE)
    with pytest.raises(AssetInvalid, match=r"^url_video: the URL returned a web page, not a file\. Do this\.$"):
        got()


@pytest.mark.parametrize("hint", sorted(set(share_links._HINTS.values())))
def test_every_service_is_in_the_documentation(hint: str) -> None:
    docs = (ROOT / "docs" / "api.md").read_text()
    service = next(name for name in _services(docs) if name in hint)
    assert service
    assert all(url.rstrip(".;,") in docs for url in hint.split() if url.startswith("https://"))


def _services(docs: str) -> list[str]:
    rows = docs.partition("| Service | Direct link |")[2].partition("\n\n")[0]
    return [name for row in rows.splitlines()[2:] for name in row.split("|")[1].strip().split(", ")]


# ---- what must not be told

SECRETS = ("s3cret", "fragm3nt", "passw0rd")
REPLIES = {
    "whole": Reply(200, NEW),
    "page": Reply(200, PAGE),
    "broken": broken(OLD, '"1"'),
    "gone": Reply(404, b"s3cret"),
    "error": Reply(500),
    "redirect inside": Reply(302, headers={"Location": "http://me:passw0rd@10.0.0.1/s3cret"}),
    "redirect to another scheme": Reply(302, headers={"Location": "ftp://me:passw0rd@example.com/s3cret"}),
    "redirect to nothing": Reply(302, headers={"Location": "http://[::s3cret"}),
    "garbage": Reply(200, b"", {"Content-Length": "s3cret", "Connection": "close"}),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=list(REPLIES))
def test_nothing_secret_of_a_url_is_logged_or_told(
    reply: Reply, files: FileServer, got: Callable[[], bytes], logged: io.StringIO
) -> None:
    files.routes["/x"] = reply
    told = _ended(got)
    assert not [secret for secret in SECRETS if secret in told + logged.getvalue()]


@pytest.mark.parametrize(
    "url",
    [
        "http://me:passw0rd@127.0.0.1/s3cret?a=s3cret#fragm3nt",
        "http://me:passw0rd@169.254.169.254/s3cret#fragm3nt",
        "http://me:passw0rd@[::1]/s3cret#fragm3nt",
        "http://me:passw0rd@[::1/s3cret#fragm3nt",
        "ftp://me:passw0rd@127.0.0.1/s3cret#fragm3nt",
        "http://me:passw0rd@127.0.0.1:99999/s3cret#fragm3nt",
        "http://me:passw0rd@a..b/s3cret#fragm3nt",
        "http://me:passw0rd@%00/s3cret#fragm3nt",
    ],
)
def test_nothing_secret_of_a_refused_url_is_logged_or_told(url: str, tmp_path: Path, logged: io.StringIO) -> None:
    def refused() -> bytes:
        return fetch(url, "url_video", Work(tmp_path), deadline_s=5, allow_origins=()).read_bytes()

    told = _ended(refused)
    assert told.startswith("url_video: ")
    assert not [secret for secret in SECRETS if secret in told + logged.getvalue()]


def _ended(fetched: Callable[[], bytes]) -> str:
    """What a client is told, and what is logged with it."""
    try:
        fetched()
    except JobError as error:
        return f"{error.message} {error.detail}"
    return ""

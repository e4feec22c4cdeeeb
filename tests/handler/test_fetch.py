"""`handler.fetch`: what is tried again, how a page is named, what many files share; no message contains a URL."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from common import safe_http
from ffmpeg_ops import share_links
from ffmpeg_ops.assets import NamedAsset
from ffmpeg_ops.operation import Work
from handler import certificate
from handler.fetch import AT_ONCE, _pause_s, fetch_all
from tests.servers import PATIENCE_S, STOP_S, FileServer, Loopback, RawServer, Reply, Request, eventually
from wire.envelope import Limits
from wire.errors import AssetInvalid, AssetNotFound, AssetTooLarge, AssetUnavailable, Cancelled, JobError

OLD, NEW = b"old" * 10_000, b"new" * 20_000
PAGE = b"<!DOCTYPE html><html><body>Sign in to go on</body></html>"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, Limits(max_asset_bytes=1000, max_job_assets_bytes=2500))


def fetch(named: list[NamedAsset], work: Work, server: Loopback | None = None, **more: Any) -> dict[str, Path]:
    """The files of assets from `server`."""
    origins = [server.origin] if server else []
    return fetch_all(named, work, deadline_s=PATIENCE_S, allow_origins=origins, **more)


@pytest.fixture
def got(files: FileServer, tmp_path: Path) -> Callable[[], bytes]:
    """Fetches `/x` of `files` as url_video, by a URL with secrets."""
    asset = NamedAsset("url_video", "video", files.url("/x?token=s3cret#fragm3nt"))
    return lambda: fetch([asset], Work(tmp_path), files)["url_video"].read_bytes()


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
        b"\xef\xbb\xbf<!doctype HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>",
        b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0 Strict//EN'>",
        b"<!-- saved --><!-- twice -->\n<html>",
        b"<script>location='/login'</script>",
        b"<html>1\n00:00:00,000 --> 00:00:01,000\nSign in\n",
    ],
)
def test_a_web_page_is_recognised(page: bytes, files: FileServer, got: Callable[[], bytes]) -> None:
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
        b"<header>",
        b"<!--" * 100,
        b"\0\0\0\x18ftypisom",
    ],
)
def test_a_file_that_resembles_a_page_is_left_to_the_operation(
    body: bytes, files: FileServer, got: Callable[[], bytes]
) -> None:
    files.routes["/x"] = Reply(200, body, {"Content-Type": "text/html"})
    assert got() == body


def test_the_hint_is_in_the_error(files: FileServer, got: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(share_links._HINTS, urlsplit(files.origin).hostname or "", "Do this.")
    files.routes["/x"] = Reply(200, PAGE)
    with pytest.raises(AssetInvalid, match=r"^url_video: the URL returned a web page, not a file\. Do this\.$"):
        got()


# ---- secrets

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
def test_no_secret_of_a_url_is_logged_or_reported(
    reply: Reply, files: FileServer, got: Callable[[], bytes], logged: io.StringIO
) -> None:
    files.routes["/x"] = reply
    message = _message(got)
    assert not [secret for secret in SECRETS if secret in message + logged.getvalue()]


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
def test_no_secret_of_a_refused_url_is_logged_or_reported(url: str, tmp_path: Path, logged: io.StringIO) -> None:
    message = _message(lambda: fetch([NamedAsset("url_video", "video", url)], Work(tmp_path)))
    assert message.startswith("url_video: ")
    assert not [secret for secret in SECRETS if secret in message + logged.getvalue()]


def _message(call: Callable[[], object]) -> str:
    """The message and the detail of the error that a call ends with, if any."""
    try:
        call()
    except JobError as error:
        return f"{error.message} {error.detail}"
    return ""


# ---- many files

WITHOUT_LENGTH = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 6000


def assets(files: Loopback, *paths: str) -> list[NamedAsset]:
    """One asset a path, in a list: `items[0].url_image` and so on."""
    return [NamedAsset(f"items[{i}].url_image", "image", files.url(path)) for i, path in enumerate(paths)]


def fetching() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "fetch"}


TEN = tuple(f"/{i}" for i in range(10))


def test_every_asset_has_its_file_by_its_path_and_equal_urls_are_fetched_once(files: FileServer, work: Work) -> None:
    files.routes |= {path: Reply(200, path.encode() * 10) for path in TEN}
    named = [*assets(files, *TEN), NamedAsset("url_audio", "audio", files.url("/3"))]
    wanted = {f"items[{i}].url_image": path.encode() * 10 for i, path in enumerate(TEN)} | {"url_audio": b"/3" * 10}
    assert {path: file.read_bytes() for path, file in fetch(named, work, files).items()} == wanted
    assert len(files.requests) == 10


def test_at_most_four_files_come_at_a_time(files: FileServer, work: Work) -> None:
    lock, busy, most, all_there = threading.Lock(), 0, 0, threading.Event()

    def slow(request: Request) -> Reply:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            if busy == AT_ONCE:
                all_there.set()
        assert all_there.wait(PATIENCE_S)
        with lock:
            busy -= 1
        return Reply(200, b"x")

    files.routes |= dict.fromkeys(TEN[:8], slow)
    fetch(assets(files, *TEN[:8]), work, files)
    assert most == AT_ONCE == 4


def test_one_of_ten_that_fails_is_named_and_stops_the_others(files: FileServer, work: Work) -> None:
    began, before = threading.Semaphore(0), fetching()

    def endless(request: Request) -> Reply:
        began.release()
        return Reply(200, b"x" * 500, trickle_s=0.1)

    def gone(request: Request) -> Reply:
        for _ in range(3):
            assert began.acquire(timeout=PATIENCE_S)
        return Reply(404)

    files.routes |= dict.fromkeys(TEN, endless) | {"/2": gone}
    with pytest.raises(AssetNotFound, match=r"^items\[2\]\.url_image: the server returned HTTP status 404\.$"):
        fetch(assets(files, *TEN), work, files)
    eventually(lambda: not fetching() - before, STOP_S)
    assert len(files.requests) == 4, "those that had not begun were not asked for"


def test_a_stopped_attempt_asks_for_no_further_file(files: FileServer, work: Work) -> None:
    def stop(request: Request) -> Reply:
        work.stop.set(Cancelled())
        return Reply(200, b"x" * 1000, trickle_s=0.1)

    files.routes |= dict.fromkeys(TEN, stop)
    with pytest.raises(Cancelled):
        fetch(assets(files, *TEN), work, files)
    assert len(files.requests) <= AT_ONCE


def test_the_total_size_of_files_is_limited(files: FileServer, work: Work) -> None:
    files.routes |= {f"/{i}": Reply(200, b"x" * 1000) for i in range(3)} | {"/half": Reply(200, b"x" * 500)}
    fetch(assets(files, "/0", "/1", "/half"), work, files)
    with pytest.raises(AssetTooLarge, match=r"^items\[\d\]\.url_image: the job's files .* 2500 bytes together\.$"):
        fetch(assets(files, "/0", "/1", "/2"), work, files)


def test_a_file_without_a_length_counts_by_its_received_bytes(tmp_path: Path) -> None:
    work = Work(tmp_path, Limits(max_asset_bytes=10_000, max_job_assets_bytes=5000))
    with closing(RawServer(WITHOUT_LENGTH)) as server, pytest.raises(AssetTooLarge, match="together"):
        fetch(assets(server, "/"), work, server)


def test_a_retry_does_not_count_twice(files: FileServer, work: Work) -> None:
    files.routes["/0"] = in_turn(*[Reply(200, b"x" * 900, content_length=1000)] * 2, Reply(200, b"x" * 1000))
    files.routes["/1"] = Reply(200, b"x" * 1000)
    assert len(fetch(assets(files, "/0", "/1"), work, files)) == 2


def test_progress_counts_bytes_where_all_sizes_are_known_and_files_where_not(files: FileServer, tmp_path: Path) -> None:
    files.routes |= {"/large": Reply(200, b"x" * 900_000), "/small": Reply(200, b"x" * 100_000)}
    with closing(RawServer(WITHOUT_LENGTH)) as unsized:
        for server, paths in ((files, ("/large", "/small")), (unsized, ("/0", "/1"))):
            reported: list[float] = []
            fetch(assets(server, *paths), Work(tmp_path), server, progress=reported.append)
            assert max(reported) == 1.0 and min(reported) >= 0
            assert reported[-1] == 1.0 if server is files else 0.0 in reported


@pytest.mark.parametrize(
    ("asked", "at_most"), [("", 8), ("0", 61), ("2", 31), ("30", 3), ("900", 3), ("soon", 8), ("²", 8)]
)
def test_a_busy_server_is_asked_for_a_minute(monkeypatch: pytest.MonkeyPatch, asked: str, at_most: int) -> None:
    monkeypatch.undo()  # the pauses of production
    response = requests.Response()
    response.status_code = 503
    response.headers["Retry-After"] = asked
    busy, pauses = requests.HTTPError(response=response), list[float]()
    while (pause := _pause_s(busy, len(pauses), sum(pauses))) is not None:
        pauses.append(pause)
    assert 55 <= sum(pauses) <= 60
    assert len(pauses) < at_most + 1


@pytest.mark.parametrize("status", [423, 425, 429, 503])
def test_a_file_that_is_still_being_made_is_asked_for_again(files: FileServer, work: Work, status: int) -> None:
    files.routes["/0"] = in_turn(*[Reply(status)] * 4, Reply(200, b"there"))
    (path,) = fetch(assets(files, "/0"), work, files).values()
    assert path.read_bytes() == b"there"


def test_a_certificate_that_is_not_trusted_is_named(work: Work) -> None:
    with closing(RawServer(b"", tls=certificate.make().context)) as server, pytest.raises(AssetUnavailable) as refused:
        fetch(assets(server, "/"), work, server)
    assert "certificate is not trusted" in refused.value.message

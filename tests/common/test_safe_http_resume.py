"""Downloads whose connection breaks or that are too slow: they return the whole file or raise an error."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import requests

from common import deadlines, safe_http
from common.safe_http import Downloaded, TooLarge, TooSlow, Trickles, download
from tests.common.conftest import StartRaw
from tests.servers import FileServer, Reply, Request

BODY = bytes(range(256)) * 1000
OTHER = BODY[::-1]
ETAG = '"v1-abc"'
BROKEN_AT = 100_000


def get(url: str, *, max_bytes: int = 1_000_000, deadline_s: float = 60) -> tuple[Downloaded, bytes]:
    into = io.BytesIO()
    origin = "/".join(url.split("/")[:3])
    done = download(url, into, max_bytes=max_bytes, deadline_s=deadline_s, allow_origins=(origin,))
    return done, into.getvalue()


def broken(etag: str | None = ETAG, at: int = BROKEN_AT) -> Reply:
    return Reply(200, BODY[:at], {"ETag": etag} if etag is not None else {}, content_length=len(BODY))


def remainder(body: bytes = BODY, begin: int = BROKEN_AT, **change: str | None) -> Reply:
    """The remainder of BODY; `change` replaces headers or, with None, removes them."""
    headers = {"ETag": ETAG, "Content-Range": f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}"}
    headers |= {name.replace("_", "-"): value for name, value in change.items()}  # type: ignore[misc]
    return Reply(206, body[begin:], {name: value for name, value in headers.items() if value is not None})


def in_turn(*replies: Reply) -> Callable[[Request], Reply]:
    left = list(replies)
    return lambda request: left.pop(0)


# --- resuming -----------------------------------------------------------------------------------------


def test_a_broken_download_is_resumed_where_it_broke(files: FileServer) -> None:
    files.routes["/x"] = in_turn(broken(), remainder())
    assert get(files.url("/x")) == (Downloaded(len(BODY), ""), BODY)
    first, second = files.requests
    assert "Range" not in first.headers and "If-Range" not in first.headers
    assert (second.headers["Range"], second.headers["If-Range"]) == (f"bytes={BROKEN_AT}-", ETAG)
    assert second.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("at", [1, BROKEN_AT, len(BODY) - 1])
def test_a_download_is_resumed_at_any_byte_also_if_only_the_first_response_states_its_size(
    at: int, files: FileServer
) -> None:
    for size in (len(BODY), "*"):
        second = remainder(begin=at, Content_Range=f"bytes {at}-{len(BODY) - 1}/{size}")
        files.routes["/x"] = in_turn(broken(at=at), second)
        assert get(files.url("/x"))[1] == BODY


WEAK = [None, "", 'W/"v1"', 'w/"v1"', "v1", '""', '"v1', '"v 1"', '"a", "b"', "*"]
NOT_RESUMED = {
    "not begun": broken(at=0),
    "partial": Reply(206, BODY[:BROKEN_AT], {"ETag": ETAG}, content_length=len(BODY)),
    **{f"etag {etag}": broken(etag) for etag in WEAK},
}


@pytest.mark.parametrize("first", NOT_RESUMED.values(), ids=list(NOT_RESUMED))
def test_only_a_begun_whole_response_with_a_strong_etag_is_resumed(first: Reply, files: FileServer) -> None:
    files.routes["/x"] = first
    with pytest.raises(requests.ConnectionError):
        get(files.url("/x"))
    assert len(files.requests) == 1


ALL = len(BODY)
NOT_THE_REMAINDER = {
    "the whole file": Reply(200, BODY, {"ETag": ETAG}),
    "another file": Reply(200, OTHER, {"ETag": '"v2"'}),
    "the remainder, but as the whole": Reply(200, BODY[BROKEN_AT:], {"ETag": ETAG}),
    "the remainder, by its range, but as the whole": Reply(200, BODY[BROKEN_AT:], remainder().headers),
    "as long as the remainder, from another byte": remainder(
        OTHER, Content_Range=f"bytes {BROKEN_AT + 1}-{ALL - 1}/{ALL}"
    ),
    "another etag": remainder(OTHER, ETag='"v2"'),
    "a weak etag": remainder(OTHER, ETag=f"W/{ETAG}"),
    "no etag": remainder(OTHER, ETag=None),
    "no range": remainder(Content_Range=None),
    "an empty range": remainder(Content_Range=""),
    "from the first byte": remainder(begin=0),
    "a byte early": remainder(begin=BROKEN_AT - 1),
    "a byte late": remainder(begin=BROKEN_AT + 1),
    "not to the end": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL - 2}/{ALL}"),
    "past the end": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL}/{ALL}"),
    "of a larger file": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL}/{ALL + 1}"),
    "of a smaller file": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL - 2}/{ALL - 1}"),
    "of no size, not to the end": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL - 2}/*"),
    "backwards": remainder(Content_Range=f"bytes {BROKEN_AT}-5/{ALL}"),
    "unsatisfied": remainder(Content_Range=f"bytes */{ALL}"),
    "another unit": remainder(Content_Range=f"items {BROKEN_AT}-{ALL - 1}/{ALL}"),
    "two ranges": remainder(Content_Range=f"bytes {BROKEN_AT}-{ALL - 1}/{ALL}, bytes 0-1/{ALL}"),
    "odd digits": remainder(Content_Range=f"bytes +{BROKEN_AT}-{ALL - 1}/{ALL}"),
    "many digits": remainder(Content_Range=f"bytes {BROKEN_AT}-{'9' * 5000}/{'9' * 5000}"),
    "in parts": remainder(Content_Type="multipart/byteranges; boundary=x"),
    "a range not to be had": Reply(416, b"", {"Content-Range": f"bytes */{ALL}"}),
    "not changed": Reply(304, b"", {"ETag": ETAG}),
    "gone": Reply(404),
    "an error": Reply(500),
    "silence": Reply(drop=True),
    "a redirect": Reply(302, headers={"Location": "/whole"}),
    "shorter than its range": Reply(206, BODY[BROKEN_AT:-1], remainder().headers),
    "longer than its range": Reply(206, BODY[BROKEN_AT:] + b"x", remainder().headers),
    "broken as well": Reply(206, BODY[BROKEN_AT:-9], remainder().headers, content_length=ALL - BROKEN_AT),
}


@pytest.mark.parametrize("response", NOT_THE_REMAINDER.values(), ids=list(NOT_THE_REMAINDER))
def test_a_response_other_than_the_remainder_is_an_error(response: Reply, files: FileServer) -> None:
    files.routes |= {"/x": in_turn(broken(), response), "/whole": remainder()}
    with pytest.raises(requests.ConnectionError):
        get(files.url("/x"))
    assert [request.path for request in files.requests] == ["/x", "/x"]


def test_the_target_of_a_redirect_is_resumed(files: FileServer) -> None:
    files.routes |= {"/x": Reply(302, headers={"Location": "/y?k=1#part"}), "/y": in_turn(broken(), remainder())}
    assert get(files.url("/x"))[1] == BODY
    assert [request.path for request in files.requests] == ["/x", "/y?k=1", "/y?k=1"]


HEAD = b'HTTP/1.1 200 OK\r\nConnection: close\r\nETag: "a"\r\nTransfer-Encoding: chunked\r\n\r\n'
HALF = HEAD + b"5\r\nhello\r\n5\r\n"
PART = b'HTTP/1.1 206 Partial\r\nConnection: close\r\nETag: "a"\r\nContent-Range: bytes %s\r\n\r\n%s'


def test_the_size_may_come_with_the_remainder_which_counts_towards_the_limit(raw: StartRaw) -> None:
    for max_bytes in (10, 9):
        url = raw(HALF, PART % (b"5-9/10", b"world")).origin
        if max_bytes == 10:
            assert get(url, max_bytes=max_bytes)[1] == b"helloworld"
            continue
        with pytest.raises(TooLarge):
            get(url, max_bytes=max_bytes)


@pytest.mark.parametrize("stated", [b"5-9/*", b"5-9/11", b"5-10/11", b"5-8/9"])
def test_an_unknown_or_wrong_size_is_an_error(stated: bytes, raw: StartRaw) -> None:
    with pytest.raises(requests.ConnectionError):
        get(raw(HALF, PART % (stated, b"world")).origin)


class Windows:
    """Stands in for `after` where bodies are watched: their windows last as long as the test likes."""

    def __init__(self) -> None:
        self.lengths_s: list[float | None] = []
        self._look: Callable[[], float | None] = lambda: None

    def end(self) -> None:
        """The window is over, and the next one begins."""
        self.lengths_s.append(self._look())

    @contextmanager
    def after(self, seconds: float | None, action: Callable[[], float | None]) -> Iterator[None]:
        if not isinstance(action, partial):  # headers have no windows
            with deadlines.after(seconds, action):
                yield
            return
        self.lengths_s.append(seconds)
        self._look = action
        yield


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Windows:
    windows = Windows()
    monkeypatch.setattr(safe_http, "after", windows.after)
    return windows


@pytest.mark.slow
def test_the_remainder_has_the_deadline_of_the_download(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, raw: StartRaw
) -> None:
    now_s = 100.0
    url = raw(HALF, PART % (b"5-104/105", b"x" * 10), hold=True).origin
    monkeypatch.setattr(safe_http, "time", SimpleNamespace(monotonic=lambda: now_s))

    def check() -> None:
        nonlocal now_s
        now_s = 112.0 if len(windows.lengths_s) == 1 else 120.0
        if len(windows.lengths_s) == 2:
            windows.end()

    with pytest.raises(TooSlow) as caught:
        download(url, io.BytesIO(), max_bytes=1000, deadline_s=20, allow_origins=(url,), check=check)
    assert type(caught.value) is TooSlow
    assert windows.lengths_s == [20, 20 - 12, None]


def test_a_download_that_check_ended_is_not_resumed(files: FileServer) -> None:
    class Enough(Exception): ...

    def check() -> None:
        if files.requests:
            raise Enough

    files.routes["/x"] = broken()
    with pytest.raises(Enough):
        download(
            files.url("/x"), io.BytesIO(), max_bytes=10**6, deadline_s=60, allow_origins=(files.origin,), check=check
        )
    assert len(files.requests) == 1


# --- minimum speed -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand bytes a second, in each 0.5 s."""
    monkeypatch.setattr(safe_http, "MIN_BYTES_PER_S", 1000)
    monkeypatch.setattr(safe_http, "PACE_WINDOW_S", 0.5)


def test_the_pace_in_production() -> None:
    assert (safe_http.MIN_BYTES_PER_S, safe_http.PACE_WINDOW_S) == (10_240, 30)


TRICKLED = {
    "a body": b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n" + b"x" * 500,
    "a body that ends with the connection": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 500,
    "chunks": HEAD + b"1\r\nx\r\n" * 100,
    "the head of a chunk": HEAD + b"0" * 500,
    "the trailer": HEAD + b"0\r\n" + b"X: y\r\n" * 100,
}


@pytest.mark.parametrize("response", TRICKLED.values(), ids=list(TRICKLED))
def test_a_trickling_server_is_given_up_before_the_deadline(response: bytes, fast_pace: None, raw: StartRaw) -> None:
    with pytest.raises(Trickles):
        get(raw(response, pause_s=0.02).origin, deadline_s=3600)


def test_a_server_that_stops_in_the_middle_is_given_up(fast_pace: None, raw: StartRaw) -> None:
    response = b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: 99\r\n\r\nhalf'
    with pytest.raises(Trickles):
        get(raw(response, pause_s=30).origin, deadline_s=3600)


def test_a_small_file_may_be_slow(files: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_http, "MIN_BYTES_PER_S", 1_000_000)
    files.routes["/x"] = Reply(200, b"tiny", trickle_s=0.05)
    assert get(files.url("/x"))[1] == b"tiny"


def test_the_first_window_begins_with_the_body(windows: Windows, files: FileServer) -> None:
    begun: list[int] = []

    def response(request: Request) -> Reply:
        begun.append(len(windows.lengths_s))
        return Reply(200, BODY)

    files.routes["/x"] = response
    assert get(files.url("/x"))[1] == BODY
    assert (begun, len(windows.lengths_s)) == ([0], 1), "the first window begins with the body"


def in_windows(windows: Windows, *sizes: int) -> bytes:
    """What is downloaded when so many bytes come in each window."""
    into, go_on = io.BytesIO(), threading.Semaphore(0)
    sent = 0

    def check() -> None:
        nonlocal sent
        if into.tell() == sent and sent < sum(sizes):
            if sent:
                windows.end()
            sent += next(left)
            go_on.release()

    def serve() -> None:
        with listener.accept()[0] as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(sizes))
            begin = 0
            for size in sizes:
                go_on.acquire()
                peer.sendall(BODY[begin : begin + size])
                begin += size

    left = iter(sizes)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        download(f"{origin}/x", into, max_bytes=10**6, deadline_s=3600, allow_origins=(origin,), check=check)
    return into.getvalue()


@pytest.mark.parametrize("sizes", [(600,) * 5, (500, 1800, 1), (500, 500, 499)])
def test_a_body_that_is_fast_enough_in_every_window_is_whole(
    sizes: tuple[int, ...], windows: Windows, fast_pace: None
) -> None:
    assert in_windows(windows, *sizes) == BODY[: sum(sizes)]
    assert windows.lengths_s == [0.5] * len(sizes)


@pytest.mark.parametrize("sizes", [(499, 600), (600, 600, 499, 600), (9_000, 1, 1)])
def test_a_body_that_is_too_slow_in_one_window_is_given_up(
    sizes: tuple[int, ...], windows: Windows, fast_pace: None
) -> None:
    with pytest.raises(Trickles):
        in_windows(windows, *sizes)

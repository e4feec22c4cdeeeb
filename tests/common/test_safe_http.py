"""`common.safe_http` against servers on this machine: sizes, deadlines, TLS and errors.

Which URLs are refused is in `test_safe_http_addresses.py`.
"""

from __future__ import annotations

import gzip
import io
import shutil
import ssl
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from common import safe_http
from common.safe_http import Downloaded, ForbiddenUrl, TooLarge, TooSlow, download, is_public, post
from tests.common.conftest import StartRaw
from tests.servers import PATIENCE_S, STOP_S, FileServer, RawServer, Reply, eventually, file_server

BODY = bytes(range(256)) * 1000


@pytest.fixture
def other() -> Iterator[FileServer]:
    """A second server, which nothing allows."""
    with file_server() as server:
        yield server


def get(
    url: str,
    *,
    allow: tuple[str, ...] = (),
    max_bytes: int = 1_000_000,
    deadline_s: float = 60,
    check: Callable[[], None] = lambda: None,
) -> tuple[Downloaded, bytes]:
    into = io.BytesIO()
    done = download(url, into, max_bytes=max_bytes, deadline_s=deadline_s, allow_origins=allow, check=check)
    return done, into.getvalue()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- which addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "[2606:4700::1111]"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=40)
    | st.from_regex(r"https?://[^/]{0,70}/.{0,5}")
    | st.builds("http://{}/".format, st.text(alphabet="a.-_%@:[]é。\\\0 \n1", max_size=80))
)
def test_any_text_as_url_raises_a_documented_error(url: str) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(url)


# --- allowed by name -------------------------------------------------------------------------------------------------


def test_an_allowed_origin_may_be_fetched_from(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY, {"Content-Type": "video/mp4"})
    done, body = get(files.url("/x?signature=1").replace("http", "HTTP"), allow=(files.origin + "/",))
    assert (done, body) == (Downloaded(len(BODY), "video/mp4"), BODY)
    assert files.requests[0].path == "/x?signature=1"
    assert files.requests[0].headers["User-Agent"] == "Reelay/1"


@pytest.mark.parametrize(
    "url",
    [
        *["http://localhost:{}/x", "http://127.1:{}/x", "http://0:{}/x", "http://[::1]:{}/x", "http://0x7f000001:{}/x"],
        *["http://x@localhost:{}/x", "https://127.0.0.1:{}/x"],
    ],
)
def test_another_spelling_of_an_allowed_origin_is_not_allowed(url: str, files: FileServer) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(url.format(files.origin.rpartition(":")[2]), allow=(files.origin,))
    assert files.requests == []


@pytest.mark.parametrize("url", ["127.0.0.10/", "127.0.0.1:81/", "127.0.0.1@10.0.0.1/", "127.0.0.1:8@localhost:1/"])
def test_a_url_that_begins_like_an_allowed_origin_is_not_allowed(url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        get(f"http://{url}", allow=("http://127.0.0.1", "http://127.0.0.1:8"))


# --- redirects -------------------------------------------------------------------------------------------------------


def test_the_body_of_a_redirect_is_not_read(files: FileServer) -> None:
    files.routes |= {"/a": Reply(302, BODY, {"Location": "/b"}, trickle_s=0.05), "/b": Reply(200, b"there")}
    assert get(files.url("/a"), allow=(files.origin,), deadline_s=2)[1] == b"there"


# --- sizes -----------------------------------------------------------------------------------------------------------


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


def test_a_length_over_the_limit_is_refused_before_the_body_is_read(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY)
    assert get(files.url("/x"), allow=(files.origin,), max_bytes=len(BODY))[0].size_bytes == len(BODY)
    reads: list[int] = []
    with pytest.raises(TooLarge):
        get(files.url("/x"), allow=(files.origin,), max_bytes=len(BODY) - 1, check=lambda: reads.append(1))
    assert reads == []


def test_a_body_without_length_is_cut_at_the_limit(raw: StartRaw) -> None:
    origin = raw(HEAD + b"\r\n" + BODY).origin
    assert get(f"{origin}/x", allow=(origin,), max_bytes=len(BODY))[1] == BODY
    into = io.BytesIO()
    with pytest.raises(TooLarge):
        download(f"{origin}/x", into, max_bytes=1000, deadline_s=60, allow_origins=(origin,))
    assert len(into.getvalue()) <= 1000


def test_a_chunked_body_is_whole_and_cut_at_the_limit(raw: StartRaw) -> None:
    body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (BODY, b"", b"end") if piece)
    origin = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n").origin
    assert get(f"{origin}/x", allow=(origin,))[1] == BODY + b"end"
    with pytest.raises(TooLarge):
        get(f"{origin}/x", allow=(origin,), max_bytes=len(BODY))


NOT_A_FILE = {
    "no answer": b"",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "TLS": b"\x16\x03\x01\x00",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "shorter than its length": HEAD + b"Content-Length: 5\r\n\r\nhell",
    "nothing of its length": HEAD + b"Content-Length: 5\r\n\r\n",
    **{
        f"chunks {body!r}": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body
        for body in (b"", b"5\r\nhel", b"5\r\nhello\r\n", b"zz\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n")
    },
    "a redirect to no text": b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://\xff\xfe/\r\n\r\n",
}


@pytest.mark.parametrize("answer", NOT_A_FILE.values(), ids=list(NOT_A_FILE))
def test_an_incomplete_or_malformed_response_is_an_error(answer: bytes, raw: StartRaw) -> None:
    origin = raw(answer).origin
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize("length", [b"many", b"-5", b"1, 2", b"1e3", b"", "٥".encode(), b"0x5", b"+5", b"5_0"])
def test_a_malformed_length_is_ignored_or_an_error(length: bytes, raw: StartRaw) -> None:
    origin = raw(HEAD + b"Content-Length: " + length + b"\r\n\r\nhello").origin
    with suppress(requests.RequestException):
        assert get(f"{origin}/x", allow=(origin,))[1] == b"hello"


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_a_body_that_comes_compressed_is_decompressed_under_the_limit(coding: str, files: FileServer) -> None:
    body = bytes(1_000_000)
    packed = zlib.compress(body) if coding == "deflate" else gzip.compress(body[:999]) + gzip.compress(body[999:])
    files.routes["/packed"] = Reply(200, packed, {"Content-Encoding": coding})
    done, found = get(files.url("/packed"), allow=(files.origin,), max_bytes=len(body))
    assert (found, done.size_bytes) == (body, len(body))
    assert files.requests[0].headers["Accept-Encoding"] == "identity"
    with pytest.raises(TooLarge):
        get(files.url("/packed"), allow=(files.origin,), max_bytes=len(body) - 1)


@pytest.mark.parametrize(
    "damaged",
    [b"1\n00:00:01,000", gzip.compress(b"x" * 5000)[:-9], gzip.compress(b"x")[:8]],
    ids=["text", "cut", "head"],
)
def test_a_body_that_is_not_what_its_coding_says_is_an_error(damaged: bytes, files: FileServer) -> None:
    files.routes["/packed"] = Reply(200, damaged, {"Content-Encoding": "gzip"})
    with pytest.raises(requests.RequestException):
        get(files.url("/packed"), allow=(files.origin,))


def test_other_codings_and_archives_stay_as_they_are(files: FileServer) -> None:
    files.routes["/br"] = Reply(200, b"brotli", {"Content-Encoding": "br"})
    files.routes["/gz"] = Reply(200, gzip.compress(b"x"), {"Content-Type": "application/gzip"})
    assert get(files.url("/br"), allow=(files.origin,))[1] == b"brotli"
    assert get(files.url("/gz"), allow=(files.origin,))[1].startswith(b"\x1f\x8b")


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends in time ends by its deadline, and not because nothing came for so long."""
    monkeypatch.setattr(safe_http, "CONNECT_TIMEOUT_S", 4 * PATIENCE_S)
    monkeypatch.setattr(safe_http, "READ_TIMEOUT_S", 4 * PATIENCE_S)
    monkeypatch.setattr(safe_http, "PACE_WINDOW_S", 4 * PATIENCE_S)


def assert_cut_off(server: RawServer, *, slow: tuple[type[Exception], ...] = (TooSlow,)) -> None:
    """A download from `server` ends by its deadline, and hangs up."""
    with pytest.raises(slow):
        get(f"{server.origin}/x", allow=(server.origin,), deadline_s=0.4)
    assert server.left.wait(PATIENCE_S)


SLOW_OR_BROKEN = (TooSlow, requests.RequestException)


LONG_HEADERS = HEAD + b"X: " + b"y" * 1000
LONG_BODY = HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "body": LONG_BODY,
    "chunks": CHUNKED + b"1\r\nx\r\n" * 200,
    "head of a chunk": CHUNKED + b"0" * 1000,
    "trailer": CHUNKED + b"0\r\n" + b"X: y\r\n" * 200,
    "headers": LONG_HEADERS,
}
SILENT = {"before the headers": b"HTTP/1.1 200", "in the body": HEAD + b"Content-Length: 9\r\n\r\nhello"}


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("what", SLOW)
def test_what_trickles_meets_the_deadline(what: str, raw: StartRaw) -> None:
    slow = (TooSlow,) if what in {"body", "chunks"} else SLOW_OR_BROKEN
    assert_cut_off(raw(SLOW[what], pause_s=0.02), slow=slow)


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("head", SILENT.values(), ids=list(SILENT))
def test_a_server_that_falls_silent_meets_the_deadline(head: bytes, raw: StartRaw) -> None:
    assert_cut_off(raw(head, pause_s=60), slow=SLOW_OR_BROKEN)


def test_slow_redirects_share_one_deadline(files: FileServer) -> None:
    files.routes["/a"] = lambda request: Reply(302, headers={"Location": "/a"}, pause_s=0.3)
    with pytest.raises(SLOW_OR_BROKEN):  # with one each they would go on until there are too many
        get(files.url("/a"), allow=(files.origin,), deadline_s=0.5)
    assert len(files.requests) <= 2


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]
    made = subprocess.run(["openssl", "req", "-x509", *key, *subject], check=True, capture_output=True).stdout
    path.write_bytes(path.read_bytes() + made)
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """`tls`, whose certificate clients accept."""
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    return tls


def test_https_is_spoken(trusted: ssl.SSLContext, raw: StartRaw) -> None:
    origin = raw(HEAD + b"Content-Length: 5\r\n\r\nhello", tls=trusted).origin
    assert get(f"{origin}/x", allow=(origin,))[1] == b"hello"


def test_a_self_signed_certificate_is_refused(tls: ssl.SSLContext, raw: StartRaw) -> None:
    origin = raw(HEAD + b"Content-Length: 5\r\n\r\nhello", tls=tls).origin
    with pytest.raises(requests.exceptions.SSLError):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize("allowed", [True, False])
def test_a_redirect_from_https_to_http_is_checked_like_any_other(
    allowed: bool, trusted: ssl.SSLContext, raw: StartRaw, files: FileServer
) -> None:
    files.routes["/x"] = Reply(200, b"there")
    head = f"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {files.url('/x')}\r\n\r\n"
    origin = raw(head.encode(), tls=trusted).origin
    if allowed:
        assert get(f"{origin}/x", allow=(origin, files.origin))[1] == b"there"
        return
    with pytest.raises(ForbiddenUrl):
        get(f"{origin}/x", allow=(origin,))
    assert files.requests == []


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("pause_s", [0.02, 60])
@pytest.mark.parametrize("what", ["headers", "body"])
def test_slow_servers_meet_the_deadline_under_tls(
    what: str, pause_s: float, trusted: ssl.SSLContext, raw: StartRaw
) -> None:
    assert_cut_off(raw(SLOW[what], pause_s=pause_s, tls=trusted), slow=SLOW_OR_BROKEN)


# --- errors and privacy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503, 304, 300])
def test_another_status_than_2xx_is_an_error_with_its_response(status: int, files: FileServer) -> None:
    files.routes["/x"] = Reply(status, b"")
    with pytest.raises(requests.HTTPError) as caught:
        get(files.url("/x"), allow=(files.origin,))
    assert caught.value.response is not None and caught.value.response.status_code == status


def test_the_proxies_and_passwords_of_the_environment_are_not_used(
    files: FileServer, other: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.origin)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    files.routes["/x"] = Reply(200, b"straight")
    assert get(files.url("/x"), allow=(files.origin,))[1] == b"straight"
    assert other.requests == []
    assert "Authorization" not in files.requests[0].headers


@pytest.mark.parametrize("body", [BODY, b""])
def test_an_exception_of_check_ends_the_download(body: bytes, files: FileServer) -> None:
    class Enough(Exception): ...

    left = [None] * (3 if body else 0)

    def check() -> None:
        if not left:
            raise Enough
        left.pop()

    files.routes["/x"] = Reply(200, body, {"Set-Cookie": "id=1"}, trickle_s=0.02)
    with pytest.raises(Enough):
        get(files.url("/x"), allow=(files.origin,), check=check)
    files.routes["/x"] = Reply(200, b"")
    assert get(files.url("/x"), allow=(files.origin,)) == (Downloaded(0, ""), b"")
    assert "Cookie" not in files.requests[1].headers


class Full(Exception):
    """Raised after the whole body was read, when its connection is idle."""


@pytest.mark.parametrize("target", ["/x", "/broken-redirect"])
def test_no_connection_outlives_a_download_that_fails(target: str, files: FileServer) -> None:
    """Not even while its error is alive, whose traceback holds the response, and the response its pool."""
    files.routes["/x"] = Reply(body=BODY)
    files.routes["/broken-redirect"] = Reply(302, headers={"Location": "http://[::1"})
    before = open_files()
    received = 0

    def check() -> None:
        if received == len(BODY):
            raise Full

    class Counting:
        def write(self, chunk: bytes) -> None:
            nonlocal received
            received += len(chunk)

    with pytest.raises((Full, ForbiddenUrl)) as caught:
        download(
            files.url(target), Counting(), max_bytes=10**6, deadline_s=60, allow_origins=[files.origin], check=check
        )
    eventually(lambda: open_files() <= before, STOP_S)
    assert caught.tb is not None


def test_an_error_of_the_disk_is_raised_as_it_is(files: FileServer) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    files.routes["/x"] = Reply(200, BODY)
    with pytest.raises(OSError, match="No space") as caught:
        download(files.url("/x"), Full(), max_bytes=10**6, deadline_s=60, allow_origins=(files.origin,))
    assert not isinstance(caught.value, requests.RequestException)


# --- posting ---------------------------------------------------------------------------------------------------------


def send(url: str, *, allow: tuple[str, ...] = (), timeout_s: float = 30) -> tuple[int, dict[str, str]]:
    answer = post(
        url, b'{"a":1}', {"Content-Type": "application/json", "X-Own": "1"}, timeout_s=timeout_s, allow_origins=allow
    )
    return answer.status, dict(answer.headers)


def test_a_post_arrives_and_its_status_and_headers_come_back(files: FileServer) -> None:
    files.routes["/x"] = Reply(429, b"slow down", headers={"Retry-After": "7"})
    status, headers = send(files.url("/x?a=b"), allow=(files.origin,))
    assert (status, headers["Retry-After"]) == (429, "7")
    (request,) = files.requests
    assert (request.method, request.path, request.body) == ("POST", "/x?a=b", b'{"a":1}')
    assert (request.headers["Content-Type"], request.headers["X-Own"]) == ("application/json", "1")
    assert request.headers["User-Agent"] == "Reelay/1"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_post_is_not_redirected(files: FileServer, status: int) -> None:
    files.routes |= {"/x": Reply(status, headers={"Location": "/y"}), "/y": Reply(200)}
    assert send(files.url("/x"), allow=(files.origin,))[0] == status
    assert [request.path for request in files.requests] == ["/x"]


@pytest.mark.parametrize("what", ["silence", "silence before TLS", "trickled headers"])
def test_a_post_has_a_deadline(what: str, raw: StartRaw) -> None:
    server = raw(LONG_HEADERS, pause_s=0.02) if what == "trickled headers" else raw(b"", pause_s=60)
    origin = server.origin.replace("http:", "https:") if "TLS" in what else server.origin
    with pytest.raises(TooSlow):
        send(f"{origin}/x", allow=(origin,), timeout_s=0.4)
    assert server.left.wait(PATIENCE_S)


def test_the_response_body_of_a_post_is_not_read(raw: StartRaw) -> None:
    server = raw(LONG_BODY, pause_s=0.02)
    assert send(f"{server.origin}/x", allow=(server.origin,), timeout_s=PATIENCE_S)[0] == 200
    assert server.left.wait(PATIENCE_S)

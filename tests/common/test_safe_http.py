"""`common.safe_http` against servers on this machine: sizes, deadlines, TLS and errors.

Which URLs are refused is in `test_safe_http_addresses.py` and `test_safe_http_rebinding.py`.
"""

from __future__ import annotations

import gzip
import io
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from common import safe_http
from common.safe_http import Downloaded, ForbiddenUrl, TooLarge, TooSlow, download, is_public, post, session
from tests.servers import FileServer, Reply, file_server

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


# --- which addresses -------------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    *["127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    *["169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "168.63.129.16", "192.0.0.1", "192.0.2.1"],
    *["198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"],
    *["::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1"],
    *["::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1", "::8.8.8.8", "::ffff:0:7f00:1"],
    *["64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001::1"],
    *["::ffff:168.63.129.16", "192.88.99.1", "2001:20::1", "3fff::1", "5f00::1"],
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_of_no_public_network_is_not_public(address: str) -> None:
    assert not is_public(address)
    assert not is_public(f"[{address}]")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "[2606:4700::1111]"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


def test_a_host_is_resolved_once_and_the_checked_address_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, dialled = ["93.184.216.34", "127.0.0.1"], list[str]()
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        host = answers.pop(0) if host == "rebind.example" else host
        return resolve(host, port, *rest, **more, flags=socket.AI_NUMERICHOST)

    def connect(self: socket.socket, address: Any) -> None:
        dialled.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(requests.ConnectionError):
        get("http://rebind.example/x")
    assert set(dialled) == {"93.184.216.34"}


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


PATIENCE_S = 30.0


class Raw:
    """A server that answers every connection with the same bytes and closes it.

    With a pause after every piece it has patience for PATIENCE_S; `left` is set when the caller hangs up before.
    """

    def __init__(self, *pieces: bytes, pause_s: float = 0.0, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self._pieces, self._pause_s = pieces, pause_s
        self.closing, self.left = threading.Event(), threading.Event()
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        try:
            if self._tls:
                peer = self._tls.wrap_socket(peer, server_side=True)
            peer.recv(65536)
            ends_at = time.monotonic() + PATIENCE_S
            for piece in self._pieces:
                peer.sendall(piece)
                if self._pause_s and not self._stays(peer, min(ends_at, time.monotonic() + self._pause_s)):
                    return
                if self._pause_s and time.monotonic() >= ends_at:
                    return
        except OSError:
            self.left.set()
        finally:
            peer.close()

    def _stays(self, peer: socket.socket, until: float) -> bool:
        """Whether the caller is still there, and will be waited for, at `until`."""
        while not self.closing.is_set() and (left := until - time.monotonic()) > 0:
            if select.select([peer], [], [], min(0.05, left))[0] and not peer.recv(65536):
                self.left.set()
                return False
        return not self.closing.is_set()

    def close(self) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def raw() -> Iterator[Callable[..., Raw]]:
    """Makes servers that answer with the bytes given."""
    made: list[Raw] = []

    def make(*pieces: bytes, pause_s: float = 0.0, tls: ssl.SSLContext | None = None) -> Raw:
        made.append(Raw(*pieces, pause_s=pause_s, tls=tls))
        return made[-1]

    yield make
    for server in made:
        server.close()


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


def test_a_length_over_the_limit_is_refused_before_the_body_is_read(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY)
    assert get(files.url("/x"), allow=(files.origin,), max_bytes=len(BODY))[0].size_bytes == len(BODY)
    reads: list[int] = []
    with pytest.raises(TooLarge):
        get(files.url("/x"), allow=(files.origin,), max_bytes=len(BODY) - 1, check=lambda: reads.append(1))
    assert reads == []


def test_a_body_without_length_is_cut_at_the_limit(raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"\r\n" + BODY).origin
    assert get(f"{origin}/x", allow=(origin,), max_bytes=len(BODY))[1] == BODY
    into = io.BytesIO()
    with pytest.raises(TooLarge):
        download(f"{origin}/x", into, max_bytes=1000, deadline_s=60, allow_origins=(origin,))
    assert len(into.getvalue()) <= 1000


def test_a_chunked_body_is_whole_and_cut_at_the_limit(raw: Callable[..., Raw]) -> None:
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
def test_an_incomplete_or_malformed_response_is_an_error(answer: bytes, raw: Callable[..., Raw]) -> None:
    origin = raw(answer).origin
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize("length", [b"many", b"-5", b"1, 2", b"1e3", b"", "٥".encode(), b"0x5", b"+5", b"5_0"])
def test_a_malformed_length_is_ignored_or_an_error(length: bytes, raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"Content-Length: " + length + b"\r\n\r\nhello").origin
    with suppress(requests.RequestException):
        assert get(f"{origin}/x", allow=(origin,))[1] == b"hello"


def test_a_compressed_body_stays_compressed(files: FileServer) -> None:
    packed = gzip.compress(bytes(1_000_000))
    files.routes["/bomb"] = Reply(200, packed, {"Content-Encoding": "gzip"})
    assert get(files.url("/bomb"), allow=(files.origin,), max_bytes=len(packed))[1] == packed
    assert files.requests[0].headers["Accept-Encoding"] == "identity"


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def only_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends in time ends by its deadline, and not because nothing came for so long."""
    monkeypatch.setattr(safe_http, "CONNECT_TIMEOUT_S", 4 * PATIENCE_S)
    monkeypatch.setattr(safe_http, "READ_TIMEOUT_S", 4 * PATIENCE_S)
    monkeypatch.setattr(safe_http, "PACE_WINDOW_S", 4 * PATIENCE_S)


def assert_cut_off(server: Raw, *, slow: tuple[type[Exception], ...] = (TooSlow,)) -> None:
    """A download from `server` ends by its deadline, before the server's patience does, and hangs up."""
    with pytest.raises(slow):
        get(f"{server.origin}/x", allow=(server.origin,), deadline_s=0.4)
    assert server.left.wait(2 * PATIENCE_S)


SLOW_OR_BROKEN = (TooSlow, requests.RequestException)


def one_by_one(text: bytes) -> list[bytes]:
    return [text[i : i + 1] for i in range(len(text))]


ENDLESS_HEADERS = one_by_one(HEAD + b"X: " + b"y" * 10_000)
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "body": [HEAD + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 10_000],
    "chunks": [CHUNKED, *[b"1\r\nx\r\n"] * 10_000],
    "head of a chunk": [CHUNKED + b"1\r\nx\r\n", *[b"0"] * 10_000],
    "trailer": [CHUNKED + b"1\r\nx\r\n0\r\n", *[b"X: y\r\n"] * 10_000],
    "headers": ENDLESS_HEADERS,
}
SILENT = {"before the headers": b"HTTP/1.1 200", "in the body": HEAD + b"Content-Length: 9\r\n\r\nhel"}


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("what", SLOW)
def test_what_trickles_meets_the_deadline(what: str, raw: Callable[..., Raw]) -> None:
    slow = (TooSlow,) if what in {"body", "chunks"} else SLOW_OR_BROKEN
    assert_cut_off(raw(*SLOW[what], pause_s=0.02), slow=slow)


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("head", SILENT.values(), ids=list(SILENT))
def test_a_server_that_falls_silent_meets_the_deadline(head: bytes, raw: Callable[..., Raw]) -> None:
    assert_cut_off(raw(head, b"lo", pause_s=60), slow=SLOW_OR_BROKEN)


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


def test_https_is_spoken(certificate: Path, tls: ssl.SSLContext, raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"Content-Length: 5\r\n\r\nhello", tls=tls).origin
    with session((origin,)) as http, http.get(f"{origin}/x", verify=str(certificate)) as response:
        assert response.content == b"hello"


def test_a_certificate_that_nobody_vouches_for_is_refused(tls: ssl.SSLContext, raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"Content-Length: 5\r\n\r\nhello", tls=tls).origin
    with pytest.raises(requests.exceptions.SSLError):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize("allowed", [True, False])
def test_a_redirect_from_https_to_http_is_checked_like_any_other(
    allowed: bool,
    certificate: Path,
    tls: ssl.SSLContext,
    raw: Callable[..., Raw],
    files: FileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    files.routes["/x"] = Reply(200, b"there")
    head = f"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: {files.url('/x')}\r\n\r\n"
    origin = raw(head.encode(), tls=tls).origin
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
    what: str,
    pause_s: float,
    certificate: Path,
    tls: ssl.SSLContext,
    raw: Callable[..., Raw],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    assert_cut_off(raw(*SLOW[what], pause_s=pause_s, tls=tls), slow=SLOW_OR_BROKEN)


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
def test_a_post_has_a_deadline(what: str, raw: Callable[..., Raw]) -> None:
    server = raw(*ENDLESS_HEADERS, pause_s=0.02) if what == "trickled headers" else raw(b"", pause_s=60)
    origin = server.origin.replace("http:", "https:") if "TLS" in what else server.origin
    with pytest.raises(TooSlow):
        send(f"{origin}/x", allow=(origin,), timeout_s=0.4)
    assert server.left.wait(2 * PATIENCE_S)


def test_the_response_body_of_a_post_is_not_read(raw: Callable[..., Raw]) -> None:
    server = raw(HEAD + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 10_000, pause_s=0.02)
    assert send(f"{server.origin}/x", allow=(server.origin,), timeout_s=2 * PATIENCE_S)[0] == 200
    assert server.left.wait(2 * PATIENCE_S)

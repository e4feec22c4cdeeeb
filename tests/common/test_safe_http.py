"""Nothing here leaves the machine: a refused address must be refused before it is dialled."""

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
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import safe_http
from common.safe_http import Downloaded, ForbiddenUrl, TooLarge, TooSlow, download, is_public, post, session
from tests.servers import FileServer, Reply, Request, file_server

BODY = bytes(range(256)) * 1000


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that a socket is connected to."""
    seen: list[Any] = []
    dial = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        seen.append(address)
        dial(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    return seen


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A stand-in for DNS: host name → the addresses of its answers, one after the other, the last for ever."""
    table: dict[str, list[str]] = {}
    ask = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *rest: Any, **more: Any) -> Any:
        answers = table.get(host)
        if answers:
            host = answers.pop(0) if len(answers) > 1 else answers[0]
        return ask(host, port, *rest, **more, flags=socket.AI_NUMERICHOST)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return table


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


def redirect(to: str, status: int = 302) -> Reply:
    return Reply(status, headers={"Location": to})


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
def test_an_address_that_is_not_of_the_open_internet_is_not_public(address: str) -> None:
    assert not is_public(address)
    assert not is_public(f"[{address}]")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "[2606:4700::1111]"]
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [a for a in NOT_PUBLIC if "%" not in a])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_url_of_such_an_address_is_refused_and_not_dialled(address: str, scheme: str, dialled: list[Any]) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(ForbiddenUrl):
        get(f"{scheme}://{host}:8080/x")
    assert dialled == []


@pytest.mark.parametrize(
    "host",
    [
        *["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "0", "0x0", "127.0.0.1."],
        *["localhost", "LOCALHOST", "LocalHost.", "user:password@127.0.0.1", "example.com@127.0.0.1", "%6cocalhost"],
        *["2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518", "[::]", "[0:0::1]"],
        *["[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::ffff:0x7f.1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%251]"],
        *["①②⑦.⓪.⓪.①", "127。0。0。1", "ｌｏｃａｌｈｏｓｔ"],  # full-width and circled spellings
    ],
)  # fmt: skip
def test_another_spelling_of_such_an_address_gets_nowhere(host: str, files: FileServer, dialled: list[Any]) -> None:
    files.routes["/x"] = Reply(200, b"inside")
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"http://{host}:{files.origin.rpartition(':')[2]}/x")
    assert dialled == [] and files.requests == []


def test_a_name_that_resolves_to_such_an_address_is_refused(names: dict[str, list[str]], dialled: list[Any]) -> None:
    names["files.example"] = ["10.0.0.1"]
    with pytest.raises(ForbiddenUrl):
        get("http://files.example/x")
    assert dialled == []


def test_a_name_that_changes_its_address_after_the_check_is_dialled_at_the_checked_one(
    names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["rebind.example"] = ["93.184.216.34", "127.0.0.1"]
    dialled: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(requests.ConnectionError):
        get("http://rebind.example/x")
    assert {address[0] for address in dialled} == {"93.184.216.34"}


@pytest.mark.parametrize(
    "url",
    [
        *["ftp://example.com/x", "file:///etc/passwd", "gopher://example.com/", "data:text/plain,x", "javascript:alert(1)"],
        *["HTTPX://example.com/", "http+unix://%2Fvar%2Frun/x", "", " ", "example.com/x", "//example.com/x", "/etc/passwd"],
        *["http://", "http:///x", "http://:80/", "http://[::1", "http://example.com:port/", "http://example.com:99999/"],
        *["http://user@/x", "https:example.com", r"http://example.com\@127.0.0.1/", r"http://example.com\x"],
    ],
)  # fmt: skip
def test_a_url_of_another_scheme_or_a_malformed_one_is_refused(url: str, dialled: list[Any]) -> None:
    with pytest.raises(ForbiddenUrl):
        get(url)
    assert dialled == []


def test_the_scheme_may_be_in_capitals(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, b"yes")
    assert get(files.url("/x").replace("http", "HTTP"), allow=(files.origin,))[1] == b"yes"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=40)
    | st.from_regex(r"https?://[^/]{0,70}/.{0,5}")
    | st.builds("http://{}/".format, st.text(alphabet="a.-_%@:[]é。\\\0 \n1", max_size=80))
)
def test_no_text_at_all_raises_anything_else(names: dict[str, list[str]], url: str) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(url)


# --- allowed by name -------------------------------------------------------------------------------------------------


def test_an_allowed_origin_may_be_fetched_from(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY, {"Content-Type": "video/mp4"})
    done, body = get(files.url("/x?signature=1"), allow=(files.origin + "/",))
    assert (done, body) == (Downloaded(len(BODY), "video/mp4"), BODY)
    assert files.requests[0].path == "/x?signature=1"


def test_a_loopback_server_that_is_not_named_is_not_fetched_from(files: FileServer, other: FileServer) -> None:
    with pytest.raises(ForbiddenUrl):
        get(other.url("/x"), allow=(files.origin,))
    assert other.requests == []


@pytest.mark.parametrize("spelling", ["localhost", "127.1", "0", "[::1]", "0x7f000001", "x@localhost"])
def test_another_name_of_an_allowed_host_is_not_allowed(spelling: str, files: FileServer) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(files.url("/x").replace("127.0.0.1", spelling), allow=(files.origin,))
    assert files.requests == []


def test_an_allowed_http_origin_does_not_allow_https(files: FileServer, dialled: list[Any]) -> None:
    with pytest.raises(ForbiddenUrl):
        get(files.url("/x").replace("http://", "https://"), allow=(files.origin,))
    assert dialled == []


@pytest.mark.parametrize("suffix", ["0", ".example", "@10.0.0.1", "@localhost:1"])
def test_a_host_that_only_begins_like_an_allowed_origin_is_not_allowed(
    suffix: str, files: FileServer, names: dict[str, list[str]], dialled: list[Any]
) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"http://127.0.0.1:8{suffix}/x", allow=("http://127.0.0.1:8",))
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"http://127.0.0.1{suffix}/x", allow=("http://127.0.0.1",))
    assert dialled == []


def test_the_default_port_need_not_be_written(names: dict[str, list[str]], dialled: list[Any]) -> None:
    names["gateway.lan"] = ["127.0.0.1"]
    with pytest.raises(ForbiddenUrl):
        get("http://gateway.lan:81/x", allow=("http://gateway.lan",))
    assert dialled == []


# --- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, files: FileServer) -> None:
    files.routes |= {"/a": redirect("/b", status), "/b": Reply(200, b"there")}
    assert get(files.url("/a"), allow=(files.origin,))[1] == b"there"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_out_of_an_allowed_origin_is_checked_and_never_dialled(
    status: int, files: FileServer, other: FileServer, dialled: list[Any]
) -> None:
    files.routes["/a"] = redirect(other.url("/secret"), status)
    with pytest.raises(ForbiddenUrl):
        get(files.url("/a"), allow=(files.origin,))
    assert other.requests == []
    assert {f"http://{host}:{port}" for host, port in dialled} == {files.origin}


@pytest.mark.parametrize(
    "target",
    [
        *["http://169.254.169.254/latest/meta-data/", "//169.254.169.254/", "https://10.0.0.1/", "http://[::1]/", "http://2130706433/"],
        *["file:///etc/passwd", "ftp://example.com/", "gopher://127.0.0.1:6379/_x", "http://[::1", "http://:80/", "http://a..b/"],
        *["http://" + "a" * 64 + ".example/", "http://*.example/"],
    ],
)  # fmt: skip
def test_a_redirect_to_where_nobody_may_go_is_refused(target: str, files: FileServer, dialled: list[Any]) -> None:
    files.routes["/a"] = redirect(target)
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(files.url("/a"), allow=(files.origin,))
    assert len(dialled) == 1


def test_a_redirect_loop_ends_after_few_requests(files: FileServer) -> None:
    files.routes |= {"/a": redirect("/b"), "/b": redirect("/a")}
    with pytest.raises(ForbiddenUrl, match="redirects"):
        get(files.url("/a"), allow=(files.origin,))
    assert len(files.requests) <= 6


def test_the_body_of_a_redirect_is_not_read(files: FileServer) -> None:
    files.routes |= {"/a": Reply(302, BODY, {"Location": "/b"}, trickle_s=0.05), "/b": Reply(200, b"there")}
    assert get(files.url("/a"), allow=(files.origin,), deadline_s=2)[1] == b"there"


def test_a_redirect_to_what_is_not_even_text_is_refused(raw: Callable[..., Raw]) -> None:
    origin = raw(b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://\xff\xfe/\r\n\r\n").origin
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        get(f"{origin}/x", allow=(origin,))


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


def test_a_body_of_exactly_the_limit_is_taken(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY)
    assert get(files.url("/x"), allow=(files.origin,), max_bytes=len(BODY))[0].size_bytes == len(BODY)


def test_a_larger_length_is_refused_before_the_body_is_read(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY)
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


@pytest.mark.parametrize(
    "body", [b"5\r\nhel", b"5\r\nhello\r\n", b"zz\r\nhello\r\n0\r\n\r\n", b"", b"-5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_chunked_body_that_breaks_off_is_no_file(body: bytes, raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body).origin
    with pytest.raises(requests.RequestException):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize("missing", [1, len(BODY)])
def test_a_body_shorter_than_its_length_is_no_file(missing: int, files: FileServer) -> None:
    files.routes["/x"] = Reply(200, BODY[missing:], content_length=len(BODY))
    with pytest.raises(requests.RequestException):
        get(files.url("/x"), allow=(files.origin,))


@pytest.mark.parametrize("length", [b"many", b"-5", b"1, 2", b"1e3", b"", "٥".encode(), b"0x5", b"+5", b"5_0"])
def test_a_length_that_is_no_number_raises_nothing_unforeseen(length: bytes, raw: Callable[..., Raw]) -> None:
    origin = raw(HEAD + b"Content-Length: " + length + b"\r\n\r\nhello").origin
    try:
        assert get(f"{origin}/x", allow=(origin,))[1] == b"hello"
    except requests.RequestException:
        pass


def test_an_empty_file_is_a_file(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, b"")
    assert get(files.url("/x"), allow=(files.origin,)) == (Downloaded(0, ""), b"")


def test_a_compressed_body_stays_compressed(files: FileServer) -> None:
    packed = gzip.compress(bytes(1_000_000))
    files.routes["/bomb"] = Reply(200, packed, {"Content-Encoding": "gzip"})
    assert get(files.url("/bomb"), allow=(files.origin,), max_bytes=len(packed))[1] == packed
    assert files.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_broken_compression_is_not_even_looked_at(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, b"not gzip at all", {"Content-Encoding": "gzip"})
    assert get(files.url("/x"), allow=(files.origin,))[1] == b"not gzip at all"


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


@pytest.mark.usefixtures("only_deadlines")
def test_a_trickled_body_meets_the_deadline(raw: Callable[..., Raw]) -> None:
    pieces = [HEAD + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 10_000]
    assert_cut_off(raw(*pieces, pause_s=0.02))


@pytest.mark.usefixtures("only_deadlines")
def test_a_trickled_chunked_body_meets_the_deadline(raw: Callable[..., Raw]) -> None:
    pieces = [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 10_000]
    assert_cut_off(raw(*pieces, pause_s=0.02))


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("headers_come", [True, False])
def test_a_server_that_falls_silent_meets_the_deadline(headers_come: bool, raw: Callable[..., Raw]) -> None:
    head = HEAD + b"Content-Length: 9\r\n\r\nhel" if headers_come else b"HTTP/1.1 200"
    assert_cut_off(raw(head, b"lo", pause_s=60), slow=SLOW_OR_BROKEN)


@pytest.mark.usefixtures("only_deadlines")
def test_trickled_headers_meet_the_deadline(raw: Callable[..., Raw]) -> None:
    pieces = [bytes([byte]) for byte in HEAD + b"X: " + b"y" * 10_000]
    assert_cut_off(raw(*pieces, pause_s=0.02), slow=SLOW_OR_BROKEN)


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("after", [b"", b"0\r\n"])
def test_an_endless_chunk_head_or_trailer_meets_the_deadline(after: bytes, raw: Callable[..., Raw]) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" + after
    endless = [b"X: y\r\n" if after else b"0"] * 10_000
    assert_cut_off(raw(head, *endless, pause_s=0.02), slow=SLOW_OR_BROKEN)


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


@pytest.mark.parametrize("pause_s", [0.02, 60])
def test_slow_headers_meet_the_timeout_under_tls(
    pause_s: float, certificate: Path, tls: ssl.SSLContext, raw: Callable[..., Raw]
) -> None:
    pieces = [bytes([byte]) for byte in HEAD + b"X: " + b"y" * 10_000]
    server = raw(*pieces, pause_s=pause_s, tls=tls)
    with session((server.origin,)) as http, pytest.raises(requests.exceptions.RequestException):
        http.get(f"{server.origin}/x", verify=str(certificate), timeout=(30, 0.4))
    assert server.left.wait(2 * PATIENCE_S)


@pytest.mark.usefixtures("only_deadlines")
@pytest.mark.parametrize("pause_s", [0.02, 60])
def test_a_slow_body_meets_the_deadline_under_tls(
    pause_s: float, certificate: Path, tls: ssl.SSLContext, raw: Callable[..., Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(certificate))
    pieces = [HEAD + b"Content-Length: 10001\r\n\r\nx", *[b"x"] * 10_000]
    assert_cut_off(raw(*pieces, pause_s=pause_s, tls=tls))


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 429, 500, 503, 304, 300])
def test_another_status_than_2xx_is_an_error_with_its_response(status: int, files: FileServer) -> None:
    files.routes["/x"] = Reply(status, b"")
    with pytest.raises(requests.HTTPError) as caught:
        get(files.url("/x"), allow=(files.origin,))
    assert caught.value.response is not None and caught.value.response.status_code == status


def test_a_connection_that_is_dropped_is_an_error(files: FileServer) -> None:
    files.routes["/x"] = Reply(drop=True)
    with pytest.raises(requests.ConnectionError):
        get(files.url("/x"), allow=(files.origin,))


def test_a_port_where_nobody_listens_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(requests.ConnectionError):
        get(f"{origin}/x", allow=(origin,))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    ],
)
def test_a_server_that_does_not_speak_http_is_an_error(answer: bytes, raw: Callable[..., Raw]) -> None:
    origin = raw(answer).origin
    with pytest.raises(requests.RequestException):
        get(f"{origin}/x", allow=(origin,))


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


def test_a_proxy_does_not_help_past_the_address_check(other: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", other.origin)
    monkeypatch.setenv("HTTP_PROXY", other.origin)
    with pytest.raises(ForbiddenUrl):
        get("http://169.254.169.254/")
    assert other.requests == []


def test_the_request_says_who_asks_and_nothing_about_the_machine(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, b"")
    get(files.url("/x"), allow=(files.origin,))
    assert files.requests[0].headers["User-Agent"] == "Reelay/1"


def test_cookies_of_one_host_do_not_go_to_another_download(files: FileServer) -> None:
    files.routes["/x"] = Reply(200, b"", {"Set-Cookie": "id=1"})
    get(files.url("/x"), allow=(files.origin,))
    get(files.url("/x"), allow=(files.origin,))
    assert "Cookie" not in files.requests[1].headers


class Enough(Exception):
    pass


def test_what_check_raises_ends_the_download(files: FileServer) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise Enough

    files.routes["/x"] = Reply(200, BODY, trickle_s=0.02)
    with pytest.raises(Enough):
        get(files.url("/x"), allow=(files.origin,), check=check)
    assert len(calls) == 4


def test_check_is_called_at_least_once_even_for_an_empty_file(files: FileServer) -> None:
    def check() -> None:
        raise Enough

    files.routes["/x"] = Reply(200, b"")
    with pytest.raises(Enough):
        get(files.url("/x"), allow=(files.origin,), check=check)


def test_a_full_disk_is_told_as_it_is(files: FileServer) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    files.routes["/x"] = Reply(200, BODY)
    with pytest.raises(OSError, match="No space") as caught:
        download(files.url("/x"), Full(), max_bytes=10**6, deadline_s=60, allow_origins=(files.origin,))
    assert not isinstance(caught.value, requests.RequestException)


def test_parallel_downloads_do_not_mix(files: FileServer) -> None:
    def answer(request: Request) -> Reply:
        return Reply(200, request.path.encode() * 10_000)

    files.routes |= {f"/{i}": answer for i in range(8)}
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: get(files.url(f"/{i}"), allow=(files.origin,))[1]}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {i: f"/{i}".encode() * 10_000 for i in range(8)}


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


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]", "0", "inside.example"])
def test_nothing_is_posted_to_an_inside_address(host: str, dialled: list[Any], names: dict[str, list[str]]) -> None:
    names["inside.example"] = ["10.0.0.1"]
    names["0"] = ["0.0.0.0"]
    for scheme in ("http", "https"):
        with pytest.raises(ForbiddenUrl):
            send(f"{scheme}://{host}/x", allow=("http://127.0.0.1:1",))
    assert dialled == []


@pytest.mark.parametrize(
    "url", ["ftp://example.com/x", "file:///etc/passwd", "http://[::1/x", "http://example.com:99999/x"]
)
def test_a_post_needs_a_web_address(url: str) -> None:
    with pytest.raises(ForbiddenUrl):
        send(url)


@pytest.mark.parametrize("tls", [True, False])
def test_a_post_that_nobody_answers_ends_in_time(tls: bool, raw: Callable[..., Raw]) -> None:
    server = raw(b"", pause_s=60)
    origin = server.origin.replace("http:", "https:" if tls else "http:")
    with pytest.raises(TooSlow):
        send(f"{origin}/x", allow=(origin,), timeout_s=0.4)
    assert server.left.wait(2 * PATIENCE_S)


def test_a_post_does_not_wait_for_trickled_headers(raw: Callable[..., Raw]) -> None:
    server = raw(*[bytes([byte]) for byte in HEAD + b"X: " + b"y" * 10_000], pause_s=0.02)
    with pytest.raises(TooSlow):
        send(f"{server.origin}/x", allow=(server.origin,), timeout_s=0.4)
    assert server.left.wait(2 * PATIENCE_S)


def test_the_body_of_the_answer_to_a_post_is_left_unread(raw: Callable[..., Raw]) -> None:
    server = raw(HEAD + b"Content-Length: 10000\r\n\r\n", *[b"x"] * 10_000, pause_s=0.02)
    assert send(f"{server.origin}/x", allow=(server.origin,), timeout_s=2 * PATIENCE_S)[0] == 200
    assert server.left.wait(2 * PATIENCE_S)

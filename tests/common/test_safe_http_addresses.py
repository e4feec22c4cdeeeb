"""No spelling of a private address leads to it. Every connection that the process opens is recorded."""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from common.safe_http import ForbiddenUrl, download, names_inside_address, post
from tests.common.forbidden_urls import HOSTS, URLS
from tests.servers import FileServer, Reply

PUBLIC = "93.184.216.34"

_dialled: list[Any] | None = None


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _dialled is not None and event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        _dialled.append(args[1])


@dataclass
class Net:
    """`inside` must not be called; `outside` is an allowed origin, and serves PUBLIC where `serves_public` is set.

    `dialled`: all addresses in order. `answers`: the addresses to which flips.example resolves, one after the other.
    """

    inside: FileServer
    outside: FileServer
    dialled: list[Any] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    serves_public: bool = False

    def wrong(self) -> list[Any]:
        """Dialled addresses other than public ones and `outside`."""
        fine = {(PUBLIC, None), ("127.0.0.1", self.outside.port)}
        return [a for a in self.dialled if not {(a[0], None), tuple(a[:2])} & fine]


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    sys.addaudithook(_audit)
    with closing(FileServer()) as inside, closing(FileServer()) as outside:
        yield inside, outside


@pytest.fixture
def net(servers: tuple[FileServer, FileServer], monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Names of public.example resolve to a public address, which refuses connections; all others to this machine."""
    global _dialled
    net = Net(*servers)
    net.outside.routes.clear()
    net.inside.requests.clear()
    ask, dial = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host: str | bytes, port: Any, *rest: Any, **more: Any) -> Any:
        try:
            return ask(host, port, *rest, **more, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            name = host.decode() if isinstance(host, bytes) else host
            address = PUBLIC if name.rstrip(".").endswith(".public.example") else "127.0.0.1"
            return ask(net.answers.pop(0) if name == "flips.example" else address, port, *rest, **more)

    def connect(self: socket.socket, address: Any) -> None:
        net.dialled.append(address)
        if address[0] == PUBLIC and net.serves_public:
            address = ("127.0.0.1", net.outside.port)
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError
        dial(self, address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    _dialled = net.dialled
    yield net
    _dialled = None


def direct(net: Net, url: str) -> None:
    download(url, io.BytesIO(), max_bytes=1000, deadline_s=5, allow_origins=(net.outside.origin,))


def redirected(net: Net, url: str) -> None:
    net.outside.routes["/x"] = Reply(302, headers={"Location": url.encode().decode("latin-1")})
    direct(net, net.outside.url("/x"))


def posted(net: Net, url: str) -> None:
    post(url, b"{}", {}, timeout_s=5, allow_origins=(net.outside.origin,))


Way = Callable[[Net, str], None]
WAYS = (direct, redirected, posted)
TABLE = (
    *((f"http://{host}:{{}}/x", host) for host in HOSTS),
    *((f"https://{host}/x", f"{host} by https") for host in HOSTS),
    *((url, url) for url in URLS),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("url", [pytest.param(url, id=ascii(name)) for url, name in TABLE])
def test_no_private_address_is_called(url: str, way: Way, net: Net) -> None:
    with pytest.raises((ForbiddenUrl, requests.RequestException)):
        way(net, url.replace("{}", str(net.inside.port)))
    assert net.wrong() == []
    assert net.inside.requests == []


# --- names that change their address ---------------------------------------------------------------------------------

FLIPPING: dict[str, tuple[Way, str, int]] = {  # how many requests lead to the name
    "direct": (direct, "/whole", 1),
    "posted": (posted, "/whole", 1),
    "redirected to itself": (direct, "/again", 2),
    "resumed": (direct, "/broken", 2),
}


@pytest.mark.parametrize("second", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1"])
@pytest.mark.parametrize("how", FLIPPING)
def test_a_name_is_resolved_once_per_request_and_refused_once_it_is_private(how: str, second: str, net: Net) -> None:
    way, path, requests_made = FLIPPING[how]
    net.serves_public, net.answers = True, [PUBLIC, second]
    net.outside.routes |= {
        "/whole": Reply(200, b"there"),
        "/again": Reply(302, headers={"Location": "http://flips.example/whole"}),
        "/broken": Reply(200, b"th", {"ETag": '"1"'}, content_length=5),
    }
    if requests_made == 1:
        way(net, f"http://flips.example{path}")
        assert net.answers == [second]
    with pytest.raises(ForbiddenUrl, match="public"):
        way(net, f"http://flips.example{path}")
    assert (net.answers, net.wrong(), net.inside.requests) == ([], [], [])


# --- chains of redirects ---------------------------------------------------------------------------------------------

AT_THE_END = (
    "http://127.0.0.1:{}/x",
    "http://10.0.0.1/",
    "http://localhost:{}/x",
    "//127.0.0.1:{}/x",
    "https://[::1]/",
)


@pytest.mark.parametrize("end", AT_THE_END)
@pytest.mark.parametrize("hops", range(5))
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_a_private_address_is_refused_at_any_hop(status: int, hops: int, end: str, net: Net) -> None:
    for hop in range(hops):
        net.outside.routes[f"/{hop}"] = Reply(status, headers={"Location": f"/{hop + 1}"})
    net.outside.routes[f"/{hops}"] = Reply(status, headers={"Location": end.format(net.inside.port)})
    with pytest.raises(ForbiddenUrl, match="public"):
        direct(net, net.outside.url("/0"))
    assert len(net.dialled) == 2 * (hops + 1)  # the patch and the audit see one dial each
    assert (net.wrong(), net.inside.requests) == ([], [])


@pytest.mark.parametrize(("hops", "fine"), [(5, True), (6, False)])
def test_five_redirects_are_followed_and_no_sixth(hops: int, fine: bool, net: Net) -> None:
    for hop in range(hops):
        net.outside.routes[f"/{hop}"] = Reply(302, headers={"Location": f"/{hop + 1}"})
    net.outside.routes[f"/{hops}"] = Reply(200, b"there")
    net.outside.requests.clear()
    if fine:
        direct(net, net.outside.url("/0"))
    else:
        with pytest.raises(ForbiddenUrl, match="redirects"):
            direct(net, net.outside.url("/0"))
    assert len(net.outside.requests) == 6


@pytest.mark.parametrize("loop", [("/0",), ("/0?again", "/0"), ("?x", "#y"), (".", "./0"), ("/1", "/2", "/0")])
def test_a_loop_ends(loop: tuple[str, ...], net: Net) -> None:
    turns = iter(loop * 6)
    for path in ("/", "/0", "/1", "/2"):
        net.outside.routes[path] = lambda request: Reply(302, headers={"Location": next(turns)})
    net.outside.requests.clear()
    with pytest.raises(ForbiddenUrl, match="redirects"):
        direct(net, net.outside.url("/0"))
    assert len(net.outside.requests) == 6


# --- the recording itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_connections_are_recorded(way: Way, net: Net) -> None:
    net.outside.routes["/y"] = Reply(200, b"there")
    way(net, net.outside.url("/y"))
    with pytest.raises(requests.ConnectionError):
        way(net, "http://www.public.example/")
    with pytest.raises(ForbiddenUrl):
        way(net, "http://127.0.0.1/")
    assert (PUBLIC, 80) in net.dialled
    assert ("127.0.0.1", net.outside.port) in net.dialled
    assert net.wrong() == []
    with socket.socket() as one, socket.socket() as two:
        one.connect_ex(("127.0.0.1", net.inside.port))
        two.connect(("127.0.0.1", net.inside.port))
    assert net.wrong() == [("127.0.0.1", net.inside.port)] * 3  # the audit sees both, the patch one


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0",
            "10.0.0.1",
            "192.168.257",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *(
            "[::1]",
            "[::]",
            "[::ffff:10.0.0.1]",
            "[fd00::1]",
            "[fe80::1%25lo]",
            "localhost",
            "LOCALHOST.",
            "api.localhost",
        ),
    ],
)
def test_a_url_that_names_an_inside_address_is_recognised_unless_its_origin_is_allowed(host: str) -> None:
    for url in (f"http://{host}/hook", f"https://me:secret@{host}:8443", f"http://{host}"):
        assert names_inside_address(url)
    assert not names_inside_address(f"http://{host}:8000/hook", [f"http://{host}:8000"])
    assert names_inside_address(f"http://{host}:80001/hook", [f"http://{host}:8000"])


@pytest.mark.parametrize(
    "host", ["8.8.8.8", "[2606:4700::1111]", "example.com", "localhost.example.com", "n8n", "1.2.3.4.5"]
)
def test_other_hosts_are_left_to_the_request(host: str) -> None:
    assert not names_inside_address(f"https://{host}/hook")

"""The addresses from which rented workers may be called."""

from __future__ import annotations

import pytest

from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental.addresses import KEPT_MS, RETRY_MS, Addresses
from tests.gateway.conftest import FixedClock
from tests.servers import FileServer, Reply, Request


class Echo:
    """A service that returns the caller's address; `says` is its answer."""

    def __init__(self, server: FileServer) -> None:
        self._server, self.says = server, Reply(body=b"8.8.8.8\n")
        self.asked: list[Request] = []
        server.routes["/"] = self._answer

    def _answer(self, request: Request) -> Reply:
        self.asked.append(request)
        return self.says

    def addresses(self, clock: FixedClock, *fixed: str) -> Addresses:
        settings = VastSettings(allowed_ips=fixed)
        return Addresses(settings, clock, self._server.url("/"), (self._server.origin,))


@pytest.fixture
def echo(files: FileServer) -> Echo:
    return Echo(files)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


def test_what_is_set_counts_and_no_service_is_asked(echo: Echo, clock: FixedClock) -> None:
    addresses = echo.addresses(clock, "192.0.2.1", "10.0.0.0/8")
    addresses.seen("9.9.9.9")
    assert addresses.allowed() == ("192.0.2.1", "10.0.0.0/8")
    assert echo.asked == []


def test_the_address_is_asked_for_and_kept_a_while(echo: Echo, clock: FixedClock) -> None:
    addresses = echo.addresses(clock)
    assert addresses.allowed() == addresses.allowed() == ("8.8.8.8",)
    assert len(echo.asked) == 1
    echo.says = Reply(body=b"1.1.1.1")
    clock.advance(KEPT_MS)
    assert addresses.allowed() == ("1.1.1.1",)
    clock.advance(-10 * KEPT_MS)  # a clock that is set back stops nothing
    addresses.allowed()
    assert len(echo.asked) == 3


@pytest.mark.parametrize("reply", [
    Reply(500), Reply(drop=True), Reply(302, headers={"Location": "http://10.0.0.1/"}), Reply(body=b"x" * 200),
    *(Reply(body=body) for body in (b"", b"<html>8.8.8.8</html>", b"\xff\xfe", b"0.0.0.0/0", b"10.0.0.1", b"127.0.0.1")),
], ids=lambda reply: f"{reply.status} {reply.body[:12]!r}")  # fmt: skip
def test_without_an_address_nothing_can_be_rented(echo: Echo, clock: FixedClock, reply: Reply) -> None:
    addresses, echo.says = echo.addresses(clock), reply
    for _ in range(3):
        with pytest.raises(Unavailable, match="VAST_ALLOWED_IPS"):
            addresses.allowed()
    assert len(echo.asked) == 1
    echo.says = Reply(body=b"8.8.8.8")
    clock.advance(RETRY_MS)
    assert addresses.allowed() == ("8.8.8.8",)
    echo.says = reply
    clock.advance(KEPT_MS)
    assert addresses.allowed() == ("8.8.8.8",)  # the last that was known


def test_what_the_workers_see_is_let_in_by_new_machines(echo: Echo, clock: FixedClock) -> None:
    addresses = echo.addresses(clock)
    assert addresses.allowed() == ("8.8.8.8",)
    addresses.seen("8.8.8.8")
    assert addresses.allowed() == ("8.8.8.8",)
    addresses.seen("::ffff:9.9.9.9")
    assert addresses.allowed() == ("8.8.8.8", "9.9.9.9")
    addresses.seen("1.1.1.1")
    assert addresses.allowed() == ("8.8.8.8", "1.1.1.1")


@pytest.mark.parametrize(
    "peer", ["172.17.0.1", "10.0.0.1", "127.0.0.1", "0.0.0.0", "0.0.0.0/0", "", "x", "::", "fe80::1"]
)
def test_a_host_that_hides_who_calls_opens_no_other_machine(echo: Echo, clock: FixedClock, peer: str) -> None:
    addresses = echo.addresses(clock)
    addresses.seen(peer)
    assert addresses.allowed() == ("8.8.8.8",)

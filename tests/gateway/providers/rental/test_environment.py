"""What a rented worker is told, and from where it may be called."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from common.settings import SettingsError, read, variables
from gateway.configuration import check, read_settings
from gateway.providers.base import Unavailable
from gateway.providers.clouds.vast.client import creation
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.registry import PROVIDERS
from gateway.providers.rental.addresses import KEPT_MS, RETRY_MS, Addresses
from gateway.providers.rental.cloud import Order
from gateway.providers.rental.environment import environment
from gateway.providers.worker_client import worker_secrets
from gateway.settings import Settings as GatewaySettings
from gateway.signing import Signer
from handler.http_worker import _check
from handler.settings import Settings as WorkerSettings
from tests.gateway.conftest import SECRET_KEY, FixedClock
from tests.servers import FileServer, Reply, Request

GIVEN = VastSettings(concurrency=2)
RENTAL = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"


SIGNER = Signer((SECRET_KEY, "older-" + SECRET_KEY))


def told(
    settings: VastSettings = GIVEN,
    signer: Signer = SIGNER,
    rental: str = RENTAL,
    allowed: tuple[str, ...] = ("192.0.2.1",),
) -> dict[str, str]:
    return environment(settings, signer, rental, allowed)


# ---- what it is told


def test_no_secret_of_ours_is_in_it() -> None:
    """Every setting that could hold one has a text of its own, which is looked for in what a cloud gets."""
    classes = [GatewaySettings, *(provider.settings for provider in PROVIDERS.values())]
    variables_of_text = {
        name: f.name for cls in classes for name, f in variables(cls).items() if f.type in {"str", "str | None"}
    }
    secrets = {"X_API_KEY", "RUNPOD_API_KEY", "VAST_API_KEY", "S3_SECRET_ACCESS_KEY", "DATABASE_URL"}
    assert secrets <= variables_of_text.keys()
    own = {f.name: f"sentinel-{f.name}-{'0' * 32}" for f in dataclasses.fields(VastSettings) if "str" in str(f.type)}
    own.pop("allowed_ips")
    settings, signer = replace(GIVEN, **own), Signer(("sentinel-secret-key-" + "0" * 32,))
    order = Order("image", "label", told(settings, signer), 3334)
    assert "sentinel" not in json.dumps(creation(order))
    assert SECRET_KEY not in json.dumps(told())


def test_the_worker_understands_it_and_lets_the_gateway_in() -> None:
    worker = read(WorkerSettings, told(allowed=("192.0.2.1", "2001:db8::/32")))
    _check(worker)
    secrets = worker_secrets(SIGNER, RENTAL)
    assert (worker.session_token, worker.worker_api_key) == (secrets["SESSION_TOKEN"], secrets["WORKER_API_KEY"])
    assert worker.worker_tls and worker.worker_host == "0.0.0.0" and worker.worker_port == 3334
    assert worker.allowed_ips == ("192.0.2.1", "2001:db8::/32")
    assert worker.worker_concurrency == 2
    assert worker.worker_lifetime_seconds == GIVEN.max_lifetime
    assert worker.worker_silence_seconds == 420
    assert told()["WORKER_MODE"] == "http"


def test_every_machine_has_secrets_of_its_own_that_a_restart_finds_again() -> None:
    one, again, other = told(), told(), told(rental="0190aaaa-bbbb-7ccc-8ddd-ffffffffffff")
    names = ("SESSION_TOKEN", "WORKER_API_KEY")
    assert one == again
    assert len({environ[name] for environ in (one, other) for name in names}) == 4
    assert all(len(one[name]) >= 64 for name in names)


def test_a_value_that_is_too_long_for_vast_is_not_sent() -> None:
    order = Order("image", "label", told(), 3334)
    assert creation(order)["env"] == {"-p 3334:3334": "1", **told()}
    with pytest.raises(AssertionError, match="too long"):
        creation(replace(order, environment=told(allowed=("2001:db8::/32",) * 30)))


@pytest.mark.parametrize("wrong", ["here", "192.0.2.1/8", "300.1.1.1", ",".join(["192.0.2.1"] * 40)])
def test_wrong_addresses_are_told_at_the_start(wrong: str) -> None:
    with pytest.raises(SettingsError, match="VAST_ALLOWED_IPS"):
        check(read_settings({"VAST_ALLOWED_IPS": wrong, "PROVIDERS": "vast", "SECRET_KEY": SECRET_KEY}))


# ---- from where it may be called


@dataclasses.dataclass
class Echo:
    """A service that tells an address; `says` is what it answers."""

    server: FileServer
    says: Reply = dataclasses.field(default_factory=lambda: Reply(body=b"8.8.8.8\n"))
    asked: list[Request] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        def answer(request: Request) -> Reply:
            self.asked.append(request)
            return self.says

        self.server.routes["/"] = answer

    def addresses(self, clock: FixedClock, *fixed: str) -> Addresses:
        return Addresses(VastSettings(allowed_ips=fixed), clock, self.server.url("/"), (self.server.origin,))


@pytest.fixture
def echo(files: FileServer) -> Iterator[Echo]:
    yield Echo(files)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


def test_what_is_set_counts_and_nobody_is_asked(echo: Echo, clock: FixedClock) -> None:
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


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(drop=True),
        Reply(body=b""),
        Reply(body=b"<html>8.8.8.8</html>"),
        Reply(body=b"x" * 200),
        Reply(body=b"\xff\xfe"),
        Reply(body=b"0.0.0.0/0"),
        Reply(body=b"10.0.0.1"),
        Reply(body=b"127.0.0.1"),
        Reply(302, headers={"Location": "http://10.0.0.1/"}),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:12]!r}",
)
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

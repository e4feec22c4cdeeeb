"""Requests per minute, counted in the process or in Redis."""

from __future__ import annotations

import socket
import time
import tracemalloc
from collections.abc import Iterator

import pytest
from redis import Redis

from gateway.access import rate_limits
from gateway.access.rate_limits import ProcessCounter, RateLimits, Window, address_of
from gateway.errors import RateLimited
from gateway.settings import Settings
from scripts.stack import free_port
from tests.gateway.conftest import FixedClock, together
from tests.redis_server import redis_server

MINUTE = 60_000


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(1000 * MINUTE + 500)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> str:
    """Where requests are counted, with nothing counted yet."""
    if request.param == "memory":
        return "memory://"
    url = str(request.getfixturevalue("redis_url"))
    with Redis.from_url(url) as redis:
        redis.flushall()
    return url


everywhere = pytest.mark.parametrize("storage", ["memory", "redis"], indirect=True)


def make(clock: FixedClock, storage: str = "memory://", **limits: int) -> RateLimits:
    return RateLimits(Settings(rate_limit_storage=storage, **limits), clock)  # type: ignore[arg-type]


@everywhere
def test_the_limit_applies_to_each_minute(storage: str, clock: FixedClock) -> None:
    counted = make(clock, storage, rate_limit_per_key=3)
    for remaining in (2, 1, 0):
        assert counted.take("key", "a") == Window(3, remaining, 60)
    clock.advance(58_499)
    assert counted.take("key", "a") == Window(3, 0, 2, exceeded=True)
    assert counted.take("key", "b") == Window(3, 2, 2), "others are counted apart"
    clock.advance(1000)
    assert counted.take("key", "a") == Window(3, 0, 1, exceeded=True)
    clock.advance(1)
    assert counted.take("key", "a") == Window(3, 2, 60)


@everywhere
def test_a_check_counts_nothing(storage: str, clock: FixedClock) -> None:
    counted = make(clock, storage, failed_keys_per_address=2)
    for _ in range(2):
        for _ in range(5):
            counted.check("failed", "1.2.3.4")
        counted.take("failed", "1.2.3.4")
    with pytest.raises(RateLimited) as caught:
        counted.check("failed", "1.2.3.4")
    assert caught.value.retry_after_s == 60
    counted.check("failed", "1.2.3.5")
    clock.advance(MINUTE)
    counted.check("failed", "1.2.3.4")


def test_zero_is_no_limit(clock: FixedClock) -> None:
    counted = make(clock, rate_limit_per_key=0, failed_keys_per_address=0)
    assert counted.take("key", "a") is None
    counted.check("failed", "a")


@everywhere
def test_fifty_threads_get_no_more_than_the_limit(storage: str, clock: FixedClock) -> None:
    counted = make(clock, storage, rate_limit_per_key=100)

    def many(_: int) -> int:
        windows = [counted.take("key", "a") for _ in range(10)]
        return sum(not window.exceeded for window in windows if window)

    assert sum(together(50, many)) == 100


def test_a_flood_of_addresses_takes_bounded_memory_and_spares_known_ones(
    clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "MAX_NAMES", 100)
    counted = make(clock, failed_keys_per_address=5, rate_limit_per_key=5)
    counted.take("failed", "192.0.2.1")
    for i in range(1000):
        counted.take("failed", f"10.0.{i // 256}.{i % 256}")
    assert type(counted._counter) is ProcessCounter
    assert len(counted._counter._counts) <= 101
    counted.check("failed", "192.0.2.1")
    with pytest.raises(RateLimited):
        counted.check("failed", "10.9.9.9")
    window = counted.take("key", "key_1")
    assert window and window.remaining == 4, "addresses do not count against keys"


def test_a_customer_with_a_48_fills_no_table_and_locks_nobody_out(
    clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has 65,536 networks of the size that is counted; a client that comes later is counted apart."""
    assert rate_limits.MAX_SUBNETS[48] < rate_limits.MAX_SUBNETS[32] < rate_limits.MAX_NAMES / 10
    monkeypatch.setattr(rate_limits, "MAX_NAMES", 1000)
    counted = make(clock, failed_keys_per_address=5)
    for i in range(0xF000, 0x10000):
        counted.take("failed", address_of(f"2001:db8:1:{i:x}::1"))
    assert type(counted._counter) is ProcessCounter
    assert len(counted._counter._counts) == rate_limits.MAX_SUBNETS[48] + 1
    for honest in ("2001:db8:2:1::1", "2a00:1450::1", "198.51.100.7"):
        counted.check("failed", address_of(honest))
    with pytest.raises(RateLimited):
        counted.check("failed", address_of("2001:db8:1:ffff::2"))
    clock.advance(MINUTE)
    counted.check("failed", address_of("2001:db8:1:ffff::2"))


def test_many_customers_of_one_provider_fill_no_table(clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_NAMES", 1000)
    monkeypatch.setattr(rate_limits, "MAX_SUBNETS", {48: 8, 32: 256})
    counted = make(clock, failed_keys_per_address=5)
    for i in range(4_000):
        counted.take("failed", address_of(f"2001:db8:{i >> 4:x}:{i & 15:x}::1"))
    assert type(counted._counter) is ProcessCounter
    assert len(counted._counter._counts) == 256 + 256 // 8 + 1
    counted.check("failed", address_of("2001:db9::1"))
    counted.check("failed", address_of("198.51.100.7"))


@pytest.mark.slow
def test_a_hundred_thousand_addresses_take_ten_megabytes_for_a_minute(clock: FixedClock) -> None:
    counted = make(clock, failed_keys_per_address=30)
    tracemalloc.start()
    for i in range(100_000):
        counted.take("failed", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}")
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 10_000_000
    clock.advance(MINUTE)
    counted.take("failed", "10.0.0.1")
    assert type(counted._counter) is ProcessCounter
    assert len(counted._counter._counts) == 1


def test_gateways_that_share_redis_count_together(redis_url: str, clock: FixedClock) -> None:
    one, two = (make(clock, redis_url, rate_limit_per_key=3) for _ in range(2))
    windows = [counted.take("key", "shared") for counted in (one, two, one, two)]
    assert [window.exceeded for window in windows if window] == [False, False, False, True]
    with Redis.from_url(redis_url) as redis:
        (key,) = redis.keys("*key:shared")  # type: ignore[misc]
        assert 60 < redis.ttl(key) <= 120  # type: ignore[operator]


def test_without_redis_each_gateway_counts_its_own_and_retries_later(
    clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(rate_limits, "REDIS_PAUSE_S", 3600)
    counted = make(clock, f"redis://127.0.0.1:{port}/0", rate_limit_per_key=2)
    windows = [counted.take("key", "a") for _ in range(3)]
    assert [window.exceeded for window in windows if window] == [False, False, True]
    with redis_server(port):
        assert (counted.take("key", "a") or Window(0, 0, 0)).exceeded, "it is not asked at once"
        later = time.monotonic() + rate_limits.REDIS_PAUSE_S
        monkeypatch.setattr(rate_limits.time, "monotonic", lambda: later)
        window = counted.take("key", "a")
        assert window and window.remaining == 1


def test_a_silent_redis_is_asked_once(clock: FixedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        counted = make(clock, f"redis://127.0.0.1:{silent.getsockname()[1]}/0", rate_limit_per_key=2)
        storage, asked = counted._counter._storage, []  # type: ignore[attr-defined]
        incr = storage.incr
        monkeypatch.setattr(rate_limits, "REDIS_PAUSE_S", 3600)
        monkeypatch.setattr(storage, "incr", lambda *args: (asked.append(args), incr(*args))[1])
        windows = [counted.take("key", "a") for _ in range(3)]
        how = storage.storage.connection_pool.connection_kwargs
    assert len(asked) == 1
    assert (how["socket_timeout"], how["socket_connect_timeout"]) == (0.25, 0.25)
    assert [window.exceeded for window in windows if window] == [False, False, True]


@pytest.mark.parametrize(
    ("remote", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        (None, "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_addresses_of_one_customer_are_counted_together(remote: str | None, counted_as: str) -> None:
    assert address_of(remote) == counted_as

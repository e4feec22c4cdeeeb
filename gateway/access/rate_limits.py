"""How many requests in a minute: of a key, of an address without one, of an address with wrong ones.

Counted by whole minutes, in this process or, where several gateways share the work, in Redis by `limits`, on which
Flask-Limiter stands too. Its own memory is not used: when threads begin a window together it lets twice the limit pass,
and it looks through all names every 10 ms, of which one stranger with IPv6 has enough to keep a core busy.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from common.clock import Clock
from gateway.errors import RateLimited
from gateway.settings import Settings

if TYPE_CHECKING:
    from limits.storage import RedisStorage

log = structlog.get_logger(__name__)

MINUTE_MS = 60_000
KEPT_S = 120  # more than the minute, by what clocks of gateways may differ
# How many names are counted one by one in a minute; those beyond share one count.
MOST_NAMES = 50_000
REDIS_S = 0.25
# How long Redis is not asked after it has failed.
PAUSE_S = 5.0


@dataclass(frozen=True)
class Window:
    """Of `limit` requests `remaining` are left, and all again in `reset_s`. `exceeded`: this one is too many."""

    limit: int
    remaining: int
    reset_s: int
    exceeded: bool = False


class Counts(Protocol):
    """Numbers by name, each for one minute."""

    def add(self, name: str, minute: int) -> int:
        """Count one more; answers how many there are with it."""
        ...

    def get(self, name: str, minute: int) -> int: ...


class OwnCounts:
    """Those of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[str, int] = {}

    def add(self, name: str, minute: int) -> int:
        with self._lock:
            if minute != self._minute:
                self._minute, self._counts = minute, {}
            name = self._counted_as(name)
            self._counts[name] = count = self._counts.get(name, 0) + 1
            return count

    def get(self, name: str, minute: int) -> int:
        with self._lock:
            return self._counts.get(self._counted_as(name), 0) if minute == self._minute else 0

    def _counted_as(self, name: str) -> str:
        known = name in self._counts or len(self._counts) < MOST_NAMES
        return name if known else name.partition(":")[0]


class SharedCounts:
    """Those of all gateways, in Redis; while that does not answer, those of this process."""

    def __init__(self, storage: RedisStorage) -> None:
        self._storage, self._own, self._asked_again_at = storage, OwnCounts(), 0.0

    def add(self, name: str, minute: int) -> int:
        counted = self._ask(lambda: self._storage.incr(f"{minute}:{name}", KEPT_S))
        return self._own.add(name, minute) if counted is None else counted

    def get(self, name: str, minute: int) -> int:
        counted = self._ask(lambda: self._storage.get(f"{minute}:{name}"))
        return self._own.get(name, minute) if counted is None else counted

    def _ask(self, question: Callable[[], int]) -> int | None:
        if time.monotonic() < self._asked_again_at:
            return None
        try:
            return question()
        except self._storage.base_exceptions as error:
            self._asked_again_at = time.monotonic() + PAUSE_S
            log.warning("rates.redis_failed", error=type(error).__name__)
            return None


class Rates:
    """The limits of the settings; 0 is no limit."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._counts, self._clock = _counts(settings.rate_limit_storage), clock
        self._limits = {
            "key": settings.rate_limit_per_key,
            "address": settings.rate_limit_per_address,
            "failed": settings.failed_keys_per_address,
        }

    def take(self, kind: str, who: str) -> Window | None:
        """Count a request of `who`; None where there is no limit."""
        limit = self._limits[kind]
        if not limit:
            return None
        minute, reset_s = self._now()
        left = limit - self._counts.add(f"{kind}:{who}", minute)
        return Window(limit, max(0, left), reset_s, exceeded=left < 0)

    def check(self, kind: str, who: str) -> None:
        """Raises RateLimited when `who` has used up the limit; counts nothing."""
        limit = self._limits[kind]
        minute, reset_s = self._now()
        if limit and self._counts.get(f"{kind}:{who}", minute) >= limit:
            raise RateLimited(retry_after_s=reset_s)

    def _now(self) -> tuple[int, int]:
        """The minute, and the seconds until the next one."""
        minute, past_ms = divmod(self._clock.now_ms(), MINUTE_MS)
        return minute, -(-(MINUTE_MS - past_ms) // 1000)


def _counts(url: str) -> Counts:
    if url.startswith("memory:"):
        return OwnCounts()
    from limits.storage import RedisStorage  # takes memory that others need not pay

    redis = RedisStorage(url, key_prefix="reelay", socket_timeout=REDIS_S, socket_connect_timeout=REDIS_S)
    return SharedCounts(redis)


def address_of(remote: str | None) -> str:
    """Whose requests are counted together: an IPv4 address, or the /64 that one customer with IPv6 has at least."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)

"""Limits of requests per minute: of a key, of an address without a key, and of an address with invalid keys.

Requests are counted per calendar minute, in this process or, for several gateways, in Redis with the library `limits`.
The library's in-memory storage is not used: it lets twice the limit pass when a window begins, and scans all names
every 10 ms, which a single client with many IPv6 addresses makes expensive.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from common.clock import Clock
from gateway.errors import RateLimited
from gateway.settings import Settings

if TYPE_CHECKING:
    from limits.storage import RedisStorage

log = structlog.get_logger(__name__)

MINUTE_MS = 60_000
KEPT_S = 120  # longer than the minute, because the clocks of gateways differ
# Names with a count of their own in one minute; all further names share a count.
MAX_NAMES = 50_000
# How many /64 networks of a larger one have a count of their own in one minute; the others share the larger one's. A
# customer may have a /48 and a provider a /32: neither of them alone can fill the table.
MAX_SUBNETS = {48: 256, 32: 4096}
REDIS_TIMEOUT_S = 0.25
# How long Redis is not used after a failure.
REDIS_PAUSE_S = 5.0


@dataclass(frozen=True)
class Window:
    """The state of a limit after a request was counted."""

    #: Requests allowed per minute.
    limit: int
    #: Requests left in this minute.
    remaining: int
    #: Seconds until the next minute begins.
    reset_s: int
    #: Whether this request was one too many.
    exceeded: bool = False


class ProcessCounter:
    """Counts the requests of this process by name within one minute, given as minutes since 1970."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = 0
        self._counts: dict[str, int] = {}
        self._subnets: Counter[str] = Counter()  # names that have a count of their own, by the larger network

    def add(self, name: str, minute: int) -> int:
        """Count one request and return the new count. Never raises."""
        with self._lock:
            if minute != self._minute:
                self._minute, self._counts, self._subnets = minute, {}, Counter()
            counted = self._counted_name(name)
            if counted == name and name not in self._counts:
                self._subnets.update([*_larger_networks(name)])
            self._counts[counted] = count = self._counts.get(counted, 0) + 1
            return count

    def get(self, name: str, minute: int) -> int:
        """Return the count without changing it. Never raises."""
        with self._lock:
            return self._counts.get(self._counted_name(name), 0) if minute == self._minute else 0

    def _counted_name(self, name: str) -> str:
        if name in self._counts:
            return name
        for larger, most in _larger_networks(name).items():
            if self._subnets[larger] >= most:
                return larger
        return name if len(self._counts) < MAX_NAMES else name.partition(":")[0]


def _larger_networks(name: str) -> dict[str, int]:
    """The networks of which `name` is a part, smallest first, with the number of parts that are counted apart."""
    kind, _, who = name.partition(":")
    if not who.endswith("/64"):
        return {}
    address = int.from_bytes(socket.inet_pton(socket.AF_INET6, who.removesuffix("/64")))
    return {f"{kind}:{address >> (128 - prefix):x}/{prefix}": most for prefix, most in MAX_SUBNETS.items()}


class RedisCounter(ProcessCounter):
    """Counts the requests of all gateways in Redis; those of this process while Redis does not respond."""

    def __init__(self, storage: RedisStorage) -> None:
        super().__init__()
        self._storage, self._paused_until = storage, 0.0

    def add(self, name: str, minute: int) -> int:
        counted = self._try(lambda: self._storage.incr(f"{minute}:{name}", KEPT_S))
        return super().add(name, minute) if counted is None else counted

    def get(self, name: str, minute: int) -> int:
        counted = self._try(lambda: self._storage.get(f"{minute}:{name}"))
        return super().get(name, minute) if counted is None else counted

    def _try(self, command: Callable[[], int]) -> int | None:
        if time.monotonic() < self._paused_until:
            return None
        try:
            return command()
        except self._storage.base_exceptions as error:
            self._paused_until = time.monotonic() + REDIS_PAUSE_S
            log.warning("rate_limits.redis_failed", error=type(error).__name__)
            return None


class RateLimits:
    """Applies the limits of the settings; 0 means no limit."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._counter, self._clock = _counter(settings.rate_limit_storage), clock
        self._limits = {
            "key": settings.rate_limit_per_key,
            "address": settings.rate_limit_per_address,
            "failed": settings.failed_keys_per_address,
        }

    def take(self, kind: str, who: str) -> Window | None:
        """Count a request of `who`. Returns None if there is no limit."""
        limit = self._limits[kind]
        if not limit:
            return None
        minute, reset_s = self._now()
        left = limit - self._counter.add(f"{kind}:{who}", minute)
        return Window(limit, max(0, left), reset_s, exceeded=left < 0)

    def check(self, kind: str, who: str) -> None:
        """Raise RateLimited if `who` has used up the limit, without counting."""
        limit = self._limits[kind]
        minute, reset_s = self._now()
        if limit and self._counter.get(f"{kind}:{who}", minute) >= limit:
            raise RateLimited(retry_after_s=reset_s)

    def _now(self) -> tuple[int, int]:
        """The current minute and the seconds until the next."""
        minute, past_ms = divmod(self._clock.now_ms(), MINUTE_MS)
        return minute, -(-(MINUTE_MS - past_ms) // 1000)


def _counter(url: str) -> ProcessCounter:
    if url.startswith("memory:"):
        return ProcessCounter()
    from limits.storage import RedisStorage  # uses memory that other installations save

    redis = RedisStorage(
        url, key_prefix="reelay", socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
    )
    return RedisCounter(redis)


def address_of(remote: str | None) -> str:
    """The unit that is counted: an IPv4 address, or a /64 network, the smallest that a customer with IPv6 gets."""
    try:
        address = ipaddress.ip_address((remote or "").partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)

"""Times: integer milliseconds UTC internally, RFC 3339 with `Z` externally, and a clock that tests can stop."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

DAY_MS = 86_400_000


class Clock(Protocol):
    """The source of every time that is stored or compared."""

    def now_ms(self) -> int:
        """Return the milliseconds since 1970-01-01 UTC. The value may go back when the machine's time is set."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def to_rfc3339(ms: int) -> str:
    """Convert `1700000000123` to `2023-11-14T22:13:20.123Z`."""
    seconds, millis = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def from_rfc3339(text: str) -> int:
    """Reverse `to_rfc3339`, accepting any offset. Raises ValueError when `text` is not a time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, for example Z")
    return round(moment.timestamp() * 1000)

"""Time: integer milliseconds UTC inside, RFC 3339 with `Z` outside, and a clock that tests can hold still."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time to everything that stores or compares it."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def to_rfc3339(ms: int) -> str:
    """`1700000000123` → `2023-11-14T22:13:20.123Z`."""
    seconds, millis = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def from_rfc3339(text: str) -> int:
    """The reverse of `to_rfc3339`; takes any offset. Raises ValueError when `text` is not a time with an offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, for example Z")
    return round(moment.timestamp() * 1000)

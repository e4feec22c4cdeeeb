"""Sets the clock of a Python process SKEW_S seconds wrong. It must stand first in PYTHONPATH."""

from __future__ import annotations

import datetime
import os
import time

SKEW_S = int(os.environ.get("SKEW_S", "0"))
_time, _time_ns = time.time, time.time_ns
_datetime = datetime.datetime


class Skewed(_datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Skewed:
        return cls.fromtimestamp(time.time(), tz)


time.time = lambda: _time() + SKEW_S
time.time_ns = lambda: _time_ns() + SKEW_S * 1_000_000_000
datetime.datetime = Skewed  # type: ignore[misc]

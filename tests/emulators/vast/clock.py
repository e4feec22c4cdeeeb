"""The stand-in's own time: it may run faster than life, stand still, and be moved on by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_S = 0.02


class Clock:
    """Epoch seconds, `speed` of them for every second of life; 0 stands still."""

    def __init__(self, speed: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._speed, self._then, self._real_then = speed, time.time(), time.monotonic()

    def now(self) -> float:
        with self._lock:
            return self._now()

    @property
    def speed(self) -> float:
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        with self._lock:
            self._then, self._real_then, self._speed = self._now(), time.monotonic(), speed

    def move(self, seconds: float) -> None:
        with self._lock:
            self._then += seconds

    def wait(self, seconds: float, check: Callable[[], None]) -> None:
        """Returns when so many seconds of this clock have gone by; what `check` raises ends it early."""
        ends_at = self.now() + seconds
        while self.now() < ends_at:
            check()
            time.sleep(_LOOK_S)
        check()

    def _now(self) -> float:
        return self._then + (time.monotonic() - self._real_then) * self._speed

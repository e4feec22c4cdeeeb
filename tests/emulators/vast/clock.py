"""The clock of the stand-in: it may run faster than real time, stand still, or be moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_S = 0.02


class Clock:
    """Epoch seconds, `speed` of them per real second; 0 stands still."""

    def __init__(self, speed: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._waits: list[float] = []
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
        """Wait for so many seconds of this clock, or until `check` raises."""
        ends_at = self.now() + seconds
        with self._lock:
            self._waits.append(ends_at)
        try:
            while self.now() < ends_at:
                check()
                time.sleep(_LOOK_S)
            check()
        finally:
            with self._lock:
                self._waits.remove(ends_at)

    def waiting(self) -> int:
        """How many threads still wait."""
        with self._lock:
            now = self._now()
            return sum(ends_at > now for ends_at in self._waits)

    def _now(self) -> float:
        return self._then + (time.monotonic() - self._real_then) * self._speed

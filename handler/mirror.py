"""Tells RunPod how far a job is, for whoever polls it there. Jobs that report events need nothing of the kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

PERIOD_S = 2.0
# RunPod takes a word about progress that comes after the end for the job's new state, and the job never ends
# (runpod-python #250). The SDK sends each on a thread of its own, so that it may be late: nothing is told near the end,
# and an end that comes soon after a word waits a moment.
UNTIL = 0.9
SETTLE_S = 1.0


class Mirror:
    """`tell` sends `{"progress": 0.42}`, every PERIOD_S at most, and never after `close`."""

    def __init__(self, tell: Callable[[Mapping[str, float]], object]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._told_at = self._next_at = time.monotonic() + PERIOD_S
        self._told = self._closed = False

    def progress(self, fraction: float) -> None:
        """Called as often as there is news, on any thread."""
        with self._lock:
            now = time.monotonic()
            if self._closed or now < self._next_at or fraction >= UNTIL:
                return
            self._told, self._told_at, self._next_at = True, now, now + PERIOD_S
            self._tell({"progress": round(fraction, 4)})

    def close(self) -> float:
        """No more. Answers the seconds to wait before the end may be told."""
        with self._lock:
            self._closed = True
            return max(0.0, self._told_at + SETTLE_S - time.monotonic()) if self._told else 0.0

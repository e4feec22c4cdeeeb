"""Tells RunPod how far a job is, for whoever polls it there. Jobs that report events need nothing of the kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

PERIOD_S = 2.0
# RunPod takes a word about progress that comes after the end for the job's new state, and the job never ends
# (runpod-python #250). So nothing is told near the end, and the end waits until what was told has arrived.
UNTIL = 0.9
PATIENCE_S = 8.0  # the SDK tries three times within five seconds


class ProgressRelay:
    """`tell` is the SDK's progress_update, which sends `{"progress": 0.42}` on a thread. At most every PERIOD_S."""

    def __init__(
        self, tell: Callable[[Mapping[str, float]], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell, self._clock = tell, clock
        self._lock = threading.Lock()
        self._next_at = clock() + PERIOD_S
        self._under_way: set[threading.Thread] = set()
        self._closed = False

    def progress(self, fraction: float) -> None:
        """Called as often as there is news, on any thread."""
        with self._lock:
            now = self._clock()
            if self._closed or now < self._next_at or fraction >= UNTIL:
                return
            self._next_at = now + PERIOD_S
            others = set(threading.enumerate())
            self._tell({"progress": round(fraction, 4)})
            # Another thread that starts at this moment is waited for too: those of a job end with it.
            self._under_way = {t for t in self._under_way if t.is_alive()} | (set(threading.enumerate()) - others)

    def close(self) -> None:
        """Tell no more."""
        with self._lock:
            self._closed = True

    def settle(self) -> None:
        """Return when all that was told has arrived or was given up; after PATIENCE_S in any case."""
        ends_at = time.monotonic() + PATIENCE_S
        for thread in self._under_way:
            thread.join(max(0.0, ends_at - time.monotonic()))

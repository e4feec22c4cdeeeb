"""Relays the progress of jobs that report no events to RunPod, for callers that poll RunPod itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

PERIOD_S = 2.0
# Progress that arrives after the result overwrites the job's state at RunPod, and the job never ends (runpod-python
# #250). So no progress is sent near the end, and the result is held back until all progress has arrived.
UNTIL = 0.9
SETTLE_S = 8.0  # the SDK makes three tries within five seconds


class ProgressRelay:
    """Calls `send({"progress": 0.42})` at most every PERIOD_S. `send` is the SDK's, which starts a thread."""

    def __init__(
        self, send: Callable[[Mapping[str, float]], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._lock = threading.Lock()
        self._next_at = clock() + PERIOD_S
        self._sending: set[threading.Thread] = set()
        self._closed = False

    def progress(self, fraction: float) -> None:
        """Send the progress if it is time. Thread-safe."""
        with self._lock:
            now = self._clock()
            if self._closed or now < self._next_at or fraction >= UNTIL:
                return
            self._next_at = now + PERIOD_S
            others = set(threading.enumerate())
            self._send({"progress": round(fraction, 4)})
            # May include an unrelated thread that has just started; threads of a job end with it.
            self._sending = {t for t in self._sending if t.is_alive()} | (set(threading.enumerate()) - others)

    def close(self) -> None:
        """Send nothing from now on."""
        with self._lock:
            self._closed = True

    def settle(self) -> None:
        """Wait, at most SETTLE_S, until all progress has arrived or failed."""
        ends_at = time.monotonic() + SETTLE_S
        for thread in self._sending:
            thread.join(max(0.0, ends_at - time.monotonic()))

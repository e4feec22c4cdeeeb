"""A rate limiter for calls to a provider, and a circuit breaker for a provider that fails."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RateLimited(Exception):
    """No call may be made for `retry_in_s` seconds."""

    def __init__(self, retry_in_s: float) -> None:
        super().__init__(f"no call may be made for {retry_in_s:.1f} s")
        self.retry_in_s = retry_in_s


class RateLimiter:
    """Allows `calls` calls in any `window_s` seconds, and `at_once` at a time; shared by all threads.

    `now` returns seconds and never goes back.
    """

    def __init__(self, calls: int, window_s: float, at_once: int, now: Callable[[], float] = time.monotonic) -> None:
        self._calls, self._window_s, self._at_once, self._now = calls, window_s, at_once, now
        self._made: deque[float] = deque()
        self._running = 0
        self._closed_until = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def call(self, wait_s: float) -> Iterator[None]:
        """Wait at most `wait_s` seconds for the right to make one call. Raises RateLimited."""
        ends_at = self._now() + wait_s
        with self._changed:
            while (pause := self._pause_s()) > 0:
                left = ends_at - self._now()
                if left <= 0 or self._closed_until > ends_at:
                    raise RateLimited(pause)
                self._changed.wait(min(pause, left))
            self._made.append(self._now())
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()

    def close(self, seconds: float) -> None:
        """Allow no call for `seconds`, because the provider has reported too many."""
        with self._changed:
            self._closed_until = max(self._closed_until, self._now() + seconds)

    def _pause_s(self) -> float:
        now = self._now()
        while self._made and self._made[0] <= now - self._window_s:
            self._made.popleft()
        if now < self._closed_until:
            return self._closed_until - now
        if self._running >= self._at_once:
            return self._window_s  # until another call ends and notifies
        if len(self._made) >= self._calls:
            return self._made[0] + self._window_s - now
        return 0.0


class Breaker:
    """Opens after `failures` failures in a row: no call is made for `open_s` seconds, then one caller tries.

    Other callers are refused until that try has succeeded. Each failed try doubles the pause, up to `max_s`. Safe to
    share between threads.
    """

    def __init__(
        self, failures: int = 8, open_s: float = 2.0, max_s: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._open_s, self._max_s, self._now = failures, open_s, max_s, now
        self._failures = 0
        self._pause_s = open_s
        self._open_until = 0.0
        self._trying = False
        self._lock = threading.Lock()

    def closed_in_s(self) -> float:
        """Return 0 if a call may be made, else the seconds to wait. After 0 the caller must report the outcome."""
        with self._lock:
            if self._failures < self._limit:
                return 0.0
            now = self._now()
            if now < self._open_until:
                return self._open_until - now
            self._trying = True
            self._open_until = now + self._open_s  # the others wait for this caller's outcome
            return 0.0

    def succeeded(self) -> bool:
        """Report a success; return whether it closed the breaker."""
        with self._lock:
            was_open = self._failures >= self._limit
            self._failures, self._pause_s, self._trying = 0, self._open_s, False
            return was_open

    def failed(self) -> bool:
        """Report a failure; return whether it opened the breaker. Failures of earlier calls do not extend the pause."""
        with self._lock:
            self._failures += 1
            opened = self._failures == self._limit
            if self._trying:
                self._pause_s = min(self._max_s, self._pause_s * 2)
            if opened or self._trying:
                self._open_until, self._trying = self._now() + self._pause_s, False
            return opened

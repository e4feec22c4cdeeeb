"""What keeps us from asking a provider too much: a budget of calls, and a breaker for one that fails."""

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
    """At most `calls` calls in any `window_s` seconds, and `at_once` at a time; shared by all threads.

    `now` tells seconds and never goes back.
    """

    def __init__(self, calls: int, window_s: float, at_once: int, now: Callable[[], float] = time.monotonic) -> None:
        self._calls, self._window_s, self._at_once, self._now = calls, window_s, at_once, now
        self._made: deque[float] = deque()
        self._running = 0
        self._closed_until = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def call(self, wait_s: float) -> Iterator[None]:
        """The right to make one call, waited for at most `wait_s` seconds. Raises RateLimited."""
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
        """The provider said that it was too much: nobody calls for so long."""
        with self._changed:
            self._closed_until = max(self._closed_until, self._now() + seconds)

    def _pause_s(self) -> float:
        now = self._now()
        while self._made and self._made[0] <= now - self._window_s:
            self._made.popleft()
        if now < self._closed_until:
            return self._closed_until - now
        if self._running >= self._at_once:
            return self._window_s  # until another call ends and tells
        if len(self._made) >= self._calls:
            return self._made[0] + self._window_s - now
        return 0.0


class Breaker:
    """Open after `failures` failures in a row: nobody asks for `open_s` seconds, then one caller tries.

    Others go on being refused until that one has succeeded. With every try that fails the pause doubles, up to
    `most_s`. Safe to share between threads.
    """

    def __init__(
        self, failures: int = 8, open_s: float = 2.0, most_s: float = 60.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._open_s, self._most_s, self._now = failures, open_s, most_s, now
        self._failures = 0
        self._pause_s = open_s
        self._open_until = 0.0
        self._trying = False
        self._lock = threading.Lock()

    def closed_in_s(self) -> float:
        """0 when a call may be made, else the seconds until the next one may. Whoever gets 0 must report the end."""
        with self._lock:
            if self._failures < self._limit:
                return 0.0
            now = self._now()
            if now < self._open_until:
                return self._open_until - now
            self._trying = True
            self._open_until = now + self._open_s  # the others wait for what this caller finds
            return 0.0

    def succeeded(self) -> bool:
        """Whether this ended a time of failures."""
        with self._lock:
            was_open = self._failures >= self._limit
            self._failures, self._pause_s, self._trying = 0, self._open_s, False
            return was_open

    def failed(self) -> bool:
        """Whether this was the failure that opened it. What was under way when it opened changes nothing more."""
        with self._lock:
            self._failures += 1
            opened = self._failures == self._limit
            if self._trying:
                self._pause_s = min(self._most_s, self._pause_s * 2)
            if opened or self._trying:
                self._open_until, self._trying = self._now() + self._pause_s, False
            return opened

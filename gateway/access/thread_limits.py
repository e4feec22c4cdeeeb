"""Limits for requests that hold a thread for long, so that `/health` and short requests always get one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from gateway.access.transfers import Transfers


@contextmanager
def held(threads: threading.BoundedSemaphore) -> Iterator[bool]:
    """Hold one of `threads` inside the block; yields whether one was free."""
    taken = threads.acquire(blocking=False)
    try:
        yield taken
    finally:
        if taken:
            threads.release()


class ThreadLimits:
    """At most half of `threads` wait for jobs, `per_key` (0: all) of these for one key; a quarter transfers files."""

    def __init__(self, threads: int, per_key: int = 0) -> None:
        self.waiting = threading.BoundedSemaphore(threads // 2)
        self.transfers = Transfers(threads // 4)
        self._per_key = per_key or threads
        self._lock, self._waiting_of = threading.Lock(), Counter[str]()

    @contextmanager
    def waiting_for(self, key_id: str) -> Iterator[bool]:
        """Hold a waiting thread inside the block; yields whether one was free and the key may have another."""
        with self._lock:
            self._waiting_of[key_id] += 1
            may = self._waiting_of[key_id] <= self._per_key
        try:
            with held(self.waiting) if may else nullcontext(False) as taken:
                yield taken
        finally:
            with self._lock:
                self._waiting_of[key_id] -= 1
                if not self._waiting_of[key_id]:
                    del self._waiting_of[key_id]

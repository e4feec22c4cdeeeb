"""Limits for requests that hold a thread for long, so that `/health` and short requests always find a free one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


class ThreadLimit:
    """The number of threads that one kind of request may hold at once."""

    def __init__(self, size: int) -> None:
        self._slots = threading.BoundedSemaphore(size)

    def take(self) -> bool:
        """Hold a thread. Returns False if all are held; after True the caller calls `give_back` once."""
        return self._slots.acquire(blocking=False)

    def give_back(self) -> None:
        self._slots.release()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold a thread inside the block; yields whether one was free."""
        taken = self.take()
        try:
            yield taken
        finally:
            if taken:
                self.give_back()


class ThreadLimits:
    """At most half of `threads` wait for jobs, `per_key` (0: all) of these for one key; a quarter transfer files."""

    def __init__(self, threads: int, per_key: int = 0) -> None:
        self.waiting = ThreadLimit(threads // 2)
        self.transfers = ThreadLimit(threads // 4)
        self._per_key = per_key or threads
        self._lock, self._waiting_of = threading.Lock(), Counter[str]()

    @contextmanager
    def waiting_for(self, key_id: str) -> Iterator[bool]:
        """Hold a waiting thread inside the block; yields whether one was free and the key may have another."""
        with self._lock:
            self._waiting_of[key_id] += 1
            may = self._waiting_of[key_id] <= self._per_key
        try:
            with self.waiting.held() if may else nullcontext(False) as held:
                yield held
        finally:
            with self._lock:
                self._waiting_of[key_id] -= 1
                if not self._waiting_of[key_id]:
                    del self._waiting_of[key_id]

"""How many of the server's threads may be held for long, so that `/health` and short requests always find one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


class ThreadLimit:
    """A number of threads that one kind of request may hold at once."""

    def __init__(self, size: int) -> None:
        self._slots = threading.BoundedSemaphore(size)

    def take(self) -> bool:
        """Hold one; False when all are held. Whoever got True calls `give_back` once."""
        return self._slots.acquire(blocking=False)

    def give_back(self) -> None:
        self._slots.release()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold one inside the block, if there is one left."""
        taken = self.take()
        try:
            yield taken
        finally:
            if taken:
                self.give_back()


class ThreadLimits:
    """Of `threads`: at most half wait for jobs, `per_key` (0: all) of these for one key; a quarter transfer files."""

    def __init__(self, threads: int, per_key: int = 0) -> None:
        self.waiting = ThreadLimit(threads // 2)
        self.transfers = ThreadLimit(threads // 4)
        self._per_key = per_key or threads
        self._lock, self._waiting_of = threading.Lock(), Counter[str]()

    @contextmanager
    def waiting_for(self, key_id: str) -> Iterator[bool]:
        """Hold one thread of those that wait inside the block, if the key may have one more and there is one left."""
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

"""Places for transfers of files, each of which holds a thread for long."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Transfers:
    """`places` in all: a quarter is kept for workers, and the files of one key, or clients of one address, get half."""

    def __init__(self, places: int) -> None:
        self._places, self._for_clients = places, max(1, places - max(1, places // 4))
        self._share = max(1, places // 2)
        self._lock = threading.Lock()
        self._all, self._clients, self._held = 0, 0, Counter[str]()

    def take(self, key_id: str, client: str | None = None) -> bool:
        """Take a place for a file of the key, unless there is none. `client`: its address; None for a worker."""
        who = _names(key_id, client)
        with self._lock:
            full = self._all >= self._places or (client is not None and self._clients >= self._for_clients)
            if full or any(self._held[name] >= self._share for name in who):
                return False
            self._count(who, client, 1)
            return True

    def give_back(self, key_id: str, client: str | None = None) -> None:
        """Give back a place that was taken with the same arguments."""
        with self._lock:
            self._count(_names(key_id, client), client, -1)
            self._held += Counter()  # forgets those that hold none

    @contextmanager
    def held(self, key_id: str, client: str | None = None) -> Iterator[bool]:
        """Hold a place inside the block; yields whether there was one. Arguments as for `take`."""
        taken = self.take(key_id, client)
        try:
            yield taken
        finally:
            if taken:
                self.give_back(key_id, client)

    def _count(self, who: list[str], client: str | None, change: int) -> None:
        self._all += change
        self._clients += change if client is not None else 0
        for name in who:
            self._held[name] += change


def _names(key_id: str, client: str | None) -> list[str]:
    return [f"key {key_id}", *([] if client is None else [f"address {client}"])]

"""Limits for requests that take long, so that one key's cannot hold all threads of the server."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.http_server import AWAY
from gateway.access.transfers import Transfers
from gateway.access.turns import Turns

# Of the threads for requests that wait: for jobs, and for the clients of transfers. The others are for slow bodies.
WAITING, TRANSFERS = 256, 64
IN_PROGRESS_PER_KEY = AWAY // 2
# Each may be in memory twice.
LARGE_BODIES = 32


class Shares:
    """At most `places` in all, and `share` of them for one name."""

    def __init__(self, places: int, share: int) -> None:
        self._places, self._share = places, share
        self._changed, self._held = threading.Condition(), Counter[str]()

    def take(self, name: str, wait_s: float = 0.0) -> bool:
        """Take a place, after waiting for one if need be. Returns False if there is none for `name`."""
        with self._changed:
            taken = self._changed.wait_for(lambda: self._is_free(name), wait_s)
            self._held[name] += taken
            return taken

    def give_back(self, name: str) -> None:
        with self._changed:
            self._held -= Counter([name])
            self._changed.notify_all()

    def _is_free(self, name: str) -> bool:
        return self._held[name] < self._share and self._held.total() < self._places

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Hold a place inside the block; yields whether there was one."""
        taken = self.take(name)
        try:
            yield taken
        finally:
            if taken:
                self.give_back(name)


class ThreadLimits:
    """Who holds how many threads. `threads`: how many requests are worked on at once.

    `waiting_per_key`: at most so many wait for the jobs of one key; 0: half of all that may.
    """

    def __init__(self, threads: int, waiting_per_key: int = 0) -> None:
        #: Held by transfers while they do not wait for their client: they are worked on besides other requests.
        self.moving = threading.BoundedSemaphore(max(1, threads // 4))
        self.waiting = Shares(WAITING, waiting_per_key or WAITING // 2)
        self.transfers = Transfers(TRANSFERS)
        self.in_progress = Shares(AWAY, IN_PROGRESS_PER_KEY)
        #: Held by requests with large bodies, from before these are read until they are checked.
        self.large_bodies = Shares(LARGE_BODIES, LARGE_BODIES // 4)
        #: Of those that are in progress with one key and do not wait.
        self.turns = Turns(max(1, threads // 8))

"""Wakes the dispatcher when a job has changed."""

from __future__ import annotations

import threading
from collections.abc import Callable


class ChangeNotifier:
    """Wakes all waiters of this process at once. It does not see all changes of others, so waiters also poll.

    A change between two waits is not missed: a waiter passes the count of changes that it has seen.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._changes = 0
        #: Called at every change in this process.
        self.on_change: Callable[[], object] = lambda: None
        #: Called with the id of every job that has ended in this process.
        self.on_end: Callable[[str], object] = lambda job_id: None

    @property
    def changes(self) -> int:
        """How many changes there have been."""
        return self._changes

    def notify(self) -> None:
        """Wake all waiters."""
        with self._condition:
            self._changes += 1
            self._condition.notify_all()
        self.on_change()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait until there are more changes than `seen`, for at most `seconds`. Return how many there are."""
        with self._condition:
            self._condition.wait_for(lambda: self._changes > seen, timeout=seconds)
            return self._changes

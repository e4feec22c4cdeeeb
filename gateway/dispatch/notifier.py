"""Wakes threads of this process when a job has changed; what another process changed is seen at the next look."""

from __future__ import annotations

import threading


class ChangeNotifier:
    """Rings for everybody at once. A ring between two waits is not missed: `since` is the count that one saw last."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._changes = 0

    @property
    def changes(self) -> int:
        return self._changes

    def notify(self) -> None:
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def wait(self, since: int, seconds: float) -> int:
        """Wait for a ring after `since`, at most `seconds`. Answers the count now."""
        with self._condition:
            self._condition.wait_for(lambda: self._changes > since, timeout=seconds)
            return self._changes

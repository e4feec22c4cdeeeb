"""Turns at something that one thread at a time can use, shared fairly by keys."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager


class Rotation:
    """One turn at a time. Those who wait get the next turns in rotation over their names, each name's in order."""

    def __init__(self) -> None:
        self._lock, self._taken = threading.Lock(), False
        self._waiting: OrderedDict[str, deque[threading.Event]] = OrderedDict()

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for a turn, and have it inside the block."""
        mine = threading.Event()
        with self._lock:
            if self._taken:
                self._waiting.setdefault(name, deque()).append(mine)
            else:
                self._taken = True
                mine.set()
        mine.wait()
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._lock:
            if not self._waiting:
                self._taken = False
                return
            name, line = self._waiting.popitem(last=False)
            line.popleft().set()
            if line:
                self._waiting[name] = line  # behind the other names

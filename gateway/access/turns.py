"""Turns: of the requests with one key, only a few are worked on at once, whatever their number.

All requests share one processor, Python's lock, and each of those that are worked on gets an equal share of it. So the
share of a key is bounded by bounding their number.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any


class Turns:
    """At most `at_once` requests of one name at a time. Safe to share between threads."""

    def __init__(self, at_once: int) -> None:
        self._at_once, self._lock = at_once, threading.Lock()
        self._turns: dict[str, threading.BoundedSemaphore] = {}
        self._requests = Counter[str]()  # in progress, those that wait included

    def enter(self, name: str) -> threading.BoundedSemaphore:
        """Return what a request of `name` has to acquire. Call `leave` at its end."""
        with self._lock:
            self._requests[name] += 1
            return self._turns.setdefault(name, threading.BoundedSemaphore(self._at_once))

    def leave(self, name: str) -> None:
        """Forget a request that no longer holds its turn."""
        with self._lock:
            self._requests[name] -= 1
            if not self._requests[name]:
                del self._requests[name], self._turns[name]


class Turn:
    """The turn of one request, from `wait` to `end`.

    `connection` has the place of the request in the server: it is lent to another request while this one waits for its
    turn, and from then on the turn is lent together with it. None: there is no such place.
    """

    def __init__(self, turns: Turns, name: str, connection: Any = None) -> None:
        self._turns, self._name, self._connection = turns, name, connection
        self._place = getattr(connection, "place", None)
        self._turn = turns.enter(name)

    def wait(self) -> None:
        """Wait for the turn."""
        if not self._turn.acquire(blocking=False):
            if self._place is None:
                self._turn.acquire()
            else:
                self._place.release()
                self._turn.acquire()
                self._place.acquire()
        if self._place is not None:
            self._connection.place = _Both(self._turn, self._place)

    def end(self) -> None:
        """Give the turn back. The connection must have its place, not have lent it."""
        if self._place is not None:
            self._connection.place = self._place
        self._turn.release()
        self._turns.leave(self._name)


class _Both:
    """A turn and a place. No request that holds a place waits for its turn, so that they cannot wait for each other."""

    def __init__(self, turn: threading.BoundedSemaphore, place: Any) -> None:
        self._turn, self._place = turn, place

    def acquire(self) -> None:
        self._turn.acquire()
        self._place.acquire()

    def release(self) -> None:
        self._place.release()
        self._turn.release()

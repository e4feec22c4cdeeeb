"""Timers that share one thread, because a thread for each outgoing HTTP call would cost more than the call."""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger(__name__)

#: Returns the seconds until it must be called again, or None to stop.
Action = Callable[[], float | None]


@dataclass(order=True)
class _Call:
    at: float
    action: Action | None = field(compare=False)


class _Watch:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[_Call] = []  # a heap; cancelled calls are removed when they come first
        self._thread: threading.Thread | None = None

    def add(self, call: _Call) -> None:
        with self._changed:
            heapq.heappush(self._calls, call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()
            elif self._calls[0] is call:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            call, action = self._next()
            again_s = _run_safely(action)
            if again_s is not None:
                call.at = time.monotonic() + again_s
                self.add(call)

    def _next(self) -> tuple[_Call, Action]:
        """Wait for the next call that is due."""
        with self._changed:
            while True:
                while self._calls and self._calls[0].action is None:
                    heapq.heappop(self._calls)
                left = self._calls[0].at - time.monotonic() if self._calls else None
                if left is None or left > 0:
                    self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
                    continue
                call = heapq.heappop(self._calls)
                if call.action is not None:
                    return call, call.action


_watch = _Watch()
# A forked child has neither the thread nor the calls that it watches.
os.register_at_fork(after_in_child=_watch.__init__)  # type: ignore[misc]


@contextmanager
def after(seconds: float | None, action: Action) -> Iterator[None]:
    """Call `action` when the block lasts longer than `seconds` (None: never). It must not block the other timers."""
    if seconds is None:
        yield
        return
    call = _Call(time.monotonic() + seconds, action)
    _watch.add(call)
    try:
        yield
    finally:
        call.action = None


def _run_safely(action: Action) -> float | None:
    try:
        return action()
    except (OSError, ValueError, RuntimeError):
        pass  # the connection was closed in the meantime
    except Exception:
        log.exception("deadline.action_failed")  # the other timers go on
    return None

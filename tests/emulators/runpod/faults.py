"""Faults that a test injects."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

JOB_CALLS = ("run", "status", "cancel", "health", "purge-queue")
WORKER_CALLS = ("job-take", "job-stop", "job-done", "progress", "ping")
ANY = ("*", *JOB_CALLS, *WORKER_CALLS)
# Not calls: a job-take that returns a job, and the start of a worker's process.
HAND_OVER, START = "hand-over", "start"

# fault → where it can happen
KINDS = {
    "status": ANY,  # returns `status` without any effect
    "lost_request": ANY,  # closes the connection without any effect
    "lost_reply": (*ANY, HAND_OVER),  # does its work, then closes the connection
    "slow": ANY,  # does its work, then returns after `seconds`
    "garbage": ANY,  # does its work, then returns 200 with `body`
    "expired": ("status",),  # the job is forgotten for good: 404
    "late_progress": ("job-done",),  # `seconds` after the end, progress overwrites it for good
    "oversize": ("job-done",),  # the result is refused as too large
    "kill": (HAND_OVER,),  # SIGKILL for all processes of the worker, `seconds` after it was given a job
    "crash": (START,),  # the worker's process ends at once
}


@dataclass
class Fault:
    """A fault in the next `times` calls of the kind `on` (None: in all of them); `on="*"` is every call of the job API."""

    KINDS: ClassVar[Mapping[str, tuple[str, ...]]] = KINDS
    WILD: ClassVar[tuple[str, ...]] = JOB_CALLS

    kind: str
    on: str
    times: int | None = 1
    status: int = 500
    seconds: float = 0.0
    body: str = "<html><body>Bad gateway</body></html>"
    hits: int = 0

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"kind: one of {', '.join(self.KINDS)}")
        if self.on not in self.KINDS[self.kind]:
            raise ValueError(f"on: {self.kind} can happen to {', '.join(self.KINDS[self.kind])}")

    def strikes(self, call: str) -> bool:
        if self.on != call and not (self.on == "*" and call in self.WILD):
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


Kind = TypeVar("Kind", bound=Fault)


class FaultList(Generic[Kind]):
    """The faults that are asked for; the first that strikes is the only one of its call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Kind] = []

    def add(self, fault: Kind) -> Kind:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def strike(self, call: str) -> Kind | None:
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(call)), None)


class Faults(FaultList[Fault]):
    """Those of this stand-in."""

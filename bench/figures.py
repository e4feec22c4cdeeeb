"""The figures that a benchmark returns, and the measurement of durations."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True)
class Figure:
    """One measured number and its target, empty without one."""

    name: str
    value: float
    unit: str
    aim: str
    meaning: str


def side_by_side(what: str, theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Return the median durations in seconds of RUNS runs each, alternating so that a slow phase affects both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for task, taken in zip((theirs, ours), times, strict=True):
            started = time.perf_counter()
            task()
            taken.append(time.perf_counter() - started)
    theirs_s, ours_s = statistics.median(times[0]), statistics.median(times[1])
    print(f"{what}: theirs {theirs_s:.3f} s, ours {ours_s:.3f} s", file=sys.stderr)
    return theirs_s, ours_s

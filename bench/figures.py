"""The figures that a bench returns, and how times are measured."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

RUNS = 5


@dataclass(frozen=True)
class Figure:
    """One measured number and its target (empty: none)."""

    name: str
    value: float
    unit: str
    aim: str
    meaning: str


def side_by_side(what: str, theirs: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Medians of RUNS runs in seconds, taken alternately, so that a slow minute of the machine affects both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for task, taken in zip((theirs, ours), times, strict=True):
            started = time.perf_counter()
            task()
            taken.append(time.perf_counter() - started)
    theirs_s, ours_s = statistics.median(times[0]), statistics.median(times[1])
    print(f"{what}: theirs {theirs_s:.3f} s, ours {ours_s:.3f} s", file=sys.stderr)
    return theirs_s, ours_s

"""The figures that a benchmark returns, and the measurement of durations."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests

from scripts.stack import Stack

RUNS = 5
TIMEOUT_S = 480


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    #: Name in the JSON object.
    name: str
    #: In `unit`.
    value: float
    #: Empty for a number without one.
    unit: str
    #: What the number should be, such as `≥ 0.95`; empty without a target.
    target: str
    #: What was measured.
    meaning: str


def rounded(value: float) -> float:
    """The value with three significant digits."""
    return float(f"{value:.3g}")


def completed(stack: Stack, params: dict[str, Any]) -> str:
    """Run a job of img2vid to its end; return its id. Raises RuntimeError if it does not complete."""
    headers = {"X-API-Key": stack.api_key, "Prefer": "wait=90"}
    job = requests.post(f"{stack.url}/video/img2vid", json=params, headers=headers, timeout=TIMEOUT_S)
    while job.status_code == 202:
        job = requests.get(stack.url + job.headers["Location"], headers=headers, timeout=TIMEOUT_S)
    if job.json()["status"] != "completed":
        raise RuntimeError(job.text)
    return str(job.json()["jobId"])


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

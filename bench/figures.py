"""The figures that a benchmark returns, and the measurement of durations."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
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
    """Return the median durations in seconds of RUNS runs each."""
    medians = in_turns(what, {"theirs": theirs, "ours": ours})
    return medians["theirs"], medians["ours"]


def in_turns(what: str, tasks: Mapping[str, Callable[[], object]], runs: int = RUNS) -> dict[str, float]:
    """Return the median duration of each task in seconds, alternating so that a slow phase affects all."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(runs):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"{what}: {', '.join(f'{name} {taken:.3f} s' for name, taken in medians.items())}", file=sys.stderr)
    return medians

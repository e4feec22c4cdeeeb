"""Thousands of jobs in flight at RunPod: how often the gateway polls, and how soon it notices the end of a job."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, rounded
from bench.gateway.client import Load, drive
from bench.gateway.sizes import Sizes, gateway, post
from bench.gateway.workers import Workers
from tests.servers import eventually

WORK_S = 1.0
WINDOW_S = 10  # the window of RunPod's own limits
SUBMITTED_S, SEEN_S = 240, 120


@dataclass(frozen=True)
class Seen:
    """The highest rate of polls in any WINDOW_S, and the delay in seconds until each end was noticed."""

    polls_per_s: float
    seconds: list[float]


def measure(folder: Path, sizes: Sizes) -> list[Figure]:
    polled = fly(folder / "polled", sizes, events=False)
    pushed = fly(folder / "pushed", sizes, events=True)
    jobs = f"{sizes.in_flight} jobs in flight"
    return [
        Figure("gateway.polls_per_s", rounded(polled.polls_per_s), "1/s", "≤ 100", f"{jobs}, events off: `/status`"),
        Figure("gateway.seen_s", rounded(max(polled.seconds)), "s", "≤ 60", "the same: longest until an end was seen"),
        Figure("gateway.pushed_polls_per_s", rounded(pushed.polls_per_s), "1/s", "≤ 100", f"{jobs}, events on"),
        Figure("gateway.pushed_seen_s", rounded(max(pushed.seconds)), "s", "≤ 1", "longest until an end was seen"),
    ]


def fly(folder: Path, sizes: Sizes, *, events: bool) -> Seen:
    with gateway(folder, WORKER_EVENTS=str(events).lower()) as (stack, runpod):
        began = time.monotonic()
        drive(Load(stack.port, (post(stack),), sizes.connections, count=sizes.in_flight))
        eventually(lambda: runpod.queue.counts()["inQueue"] >= sizes.in_flight, SUBMITTED_S)
        submitted_s = time.monotonic() - began
        workers = Workers(runpod.queue, folder, lambda params: WORK_S)
        polls = [(time.monotonic(), runpod.calls["status"])]

        def seen_all(ended_at: Mapping[str, float]) -> bool:
            time.sleep(1)
            polls.append((time.monotonic(), runpod.calls["status"]))
            return _finished_at(database).keys() >= ended_at.keys()

        ends_at, database = time.monotonic() + sizes.ending_s, folder / "data" / "reelay.db"
        while time.monotonic() < ends_at:
            seen_all({})
        ended_at = workers.stop()
        eventually(lambda: seen_all(ended_at), SEEN_S)
        finished_at = _finished_at(database)
    windows = zip(polls, polls[WINDOW_S:] or polls[-1:], strict=False)
    seen = Seen(
        max((after - before) / (end - begin) for (begin, before), (end, after) in windows),
        [(finished_at[job_id] - at_ms) / 1000 for job_id, at_ms in ended_at.items()],
    )
    print(
        f"events {'on' if events else 'off'}: submitted in {submitted_s:.0f} s, {len(seen.seconds)} ends seen within"
        f" {max(seen.seconds):.2f} s, {seen.polls_per_s:.0f} polls a second",
        file=sys.stderr,
    )
    return seen


def _finished_at(database: Path) -> dict[str, int]:
    """When the completed jobs finished, in ms UTC."""
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        return dict(connection.execute("SELECT id, finished_at FROM jobs WHERE status = 'completed'").fetchall())

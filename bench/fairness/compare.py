"""Measures the victim before an attack and during it."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from bench.fairness.attacker import Outcome
from bench.fairness.attacks import Attack
from bench.fairness.scene import Scene, attack, scene
from bench.fairness.sizes import Sizes
from bench.fairness.victim import Report
from bench.figures import Figure, rounded
from bench.gateway.sizes import tree_mb

COLUMNS = (
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
    ("health_ms", "/health max ms"),
    ("begin_s", "job begins s"),
    ("webhook_s", "webhook begins s"),
    ("rss_mb", "memory MB"),
)
P99_MS, HEALTH_MS, BEGIN_S = 250.0, 250.0, 0.25
RSS_PAUSE_S = 0.1


@dataclass(frozen=True)
class Side:
    """What the victim saw."""

    #: Of all its requests.
    p50_ms: float
    p95_ms: float
    p99_ms: float
    #: Longest response of `/health`.
    health_ms: float
    #: Median time until a job began, and from its end until its webhook arrived.
    begin_s: float
    webhook_s: float
    #: Largest memory of the gateway's processes.
    rss_mb: float
    #: Requests that got no 2xx.
    refused: Mapping[str, int]


def compare(folder: Path, attacked_by: Attack, sizes: Sizes) -> list[Figure]:
    """Measure one attack on a gateway of its own."""
    with scene(folder, sizes.silent_hosts, local=attacked_by.local) as here:
        assault = attacked_by.plan(here, sizes)
        quiet = _side(here, sizes, sizes.quiet_s, attacked_by.job_every)
        with attack(assault) as end:
            attacked = _side(here, sizes, sizes.attacked_s, attacked_by.job_every)
            if attacked_by.ends_jobs:
                _cancel_all(here)
            outcome = end()
    _print(attacked_by, quiet, attacked, outcome)
    figures = _figures(attacked_by, quiet, attacked)
    if attacked_by.ends_jobs:
        done = outcome.statuses.get("200", 0)
        figures.append(Figure("fairness.waits.answered", done, "", str(sizes.waits), "waits that ended with their job"))
    return figures


def row(name: str, values: Mapping[str, float]) -> list[str]:
    """The cells of the attack `name`."""
    cells = []
    for column, _ in COLUMNS:
        quiet, attacked = (values[f"fairness.{name}.{column}.{side}"] for side in ("quiet", "attacked"))
        cells.append(f"{quiet:g} → {attacked:g} ({attacked / quiet if quiet else 0:.1f}×)")
    holds = "yes" if values[f"fairness.{name}.holds"] else "NO"
    return [*cells, f"{values[f'fairness.{name}.refused']:g}", holds]


def holds(attacked_by: Attack, quiet: Side, attacked: Side) -> bool:
    """Whether the bar holds."""
    return (
        attacked.p99_ms <= max(3 * quiet.p99_ms, P99_MS)
        and attacked.health_ms <= HEALTH_MS
        and attacked.begin_s <= max(2 * quiet.begin_s, BEGIN_S) + attacked_by.waits_s
        and attacked.webhook_s <= max(2 * quiet.webhook_s, BEGIN_S)
        and not attacked.refused
    )


def _side(here: Scene, sizes: Sizes, seconds: float, job_every: int) -> Side:
    with _memory(here) as peak_mb:
        report = here.victim(sizes, seconds, job_every)
    begun, notified = here.times(report.job_ids)
    return Side(
        *_percentiles(report),
        max(report.health_ms),
        statistics.median(begun),
        statistics.median(notified) if notified else 0.0,
        max(peak_mb),
        report.refused,
    )


def _percentiles(report: Report) -> tuple[float, float, float]:
    took = sorted(report.took_ms)
    return took[len(took) // 2], took[int(len(took) * 0.95)], took[int(len(took) * 0.99)]


@contextmanager
def _memory(here: Scene) -> Iterator[list[float]]:
    """Sample the memory of the gateway's processes; yields the samples in MB."""
    samples, over = [tree_mb(here.stack.process("gateway").pid)], threading.Event()

    def sample() -> None:
        while not over.wait(RSS_PAUSE_S):
            samples.append(tree_mb(here.stack.process("gateway").pid))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield samples
    finally:
        over.set()
        sampling.join()


def _cancel_all(here: Scene) -> None:
    """Cancel the attacker's unfinished jobs, and give the waits time to end."""
    headers = {"X-API-Key": here.secret}
    listed = requests.get(f"{here.stack.url}/jobs?status=queued&limit=200", headers=headers, timeout=60).json()
    running = requests.get(f"{here.stack.url}/jobs?status=running&limit=200", headers=headers, timeout=60).json()
    for job in listed["jobs"] + running["jobs"]:
        requests.delete(f"{here.stack.url}/jobs/{job['jobId']}", headers=headers, timeout=60)
    time.sleep(3)


def _figures(attacked_by: Attack, quiet: Side, attacked: Side) -> list[Figure]:
    name, figures = f"fairness.{attacked_by.name}", []
    for column, title in COLUMNS:
        for side, values in (("quiet", quiet), ("attacked", attacked)):
            value = rounded(getattr(values, column))
            figures.append(Figure(f"{name}.{column}.{side}", value, column.rpartition("_")[2], "", title))
    refused = sum(attacked.refused.values())
    return [
        *figures,
        Figure(f"{name}.refused", refused, "", "0", "requests of the victim that got no 2xx"),
        Figure(f"{name}.holds", int(holds(attacked_by, quiet, attacked)), "", "1", attacked_by.title),
    ]


def _print(attacked_by: Attack, quiet: Side, attacked: Side, outcome: Outcome) -> None:
    print(f"{attacked_by.name}: {quiet} → {attacked}; held {outcome.held:g}, {outcome.statuses}", file=sys.stderr)

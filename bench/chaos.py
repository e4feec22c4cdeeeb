"""Kills gateway, dispatcher and workers at all pairs of steps, or with --jobs at random while that many jobs run.

Every run follows one job through a stand-in for RunPod with real workers. A run without exactly one accepted result
counts as broken. With --jobs, the workers do not really encode.

With --rentals, every run follows one job on a machine rented from a stand-in for Vast.ai that returns false responses.
It covers one death at every step, then that many random runs: every step with every false response, every step at
which the gateway sleeps past its lease or never comes back, and all pairs of steps. A run is broken if it leaves a
machine behind, touches a foreign one, rents twice or loses the job.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from bench.figures import Figure
from tests.chaos import rentals as rental
from tests.chaos.load import Load
from tests.chaos.matrix import matrix
from tests.chaos.runs import Run, What, pairs, table

SEED = 5


def measure(jobs: int | None = None, rentals: int | None = None) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="reelay-chaos-") as folder:
        if rentals is not None:
            return _rentals(Path(folder), rentals)
        return _pairs(Path(folder)) if jobs is None else _load(Path(folder), jobs)


def _pairs(folder: Path) -> list[Figure]:
    with matrix(folder, seed=SEED) as chaos:
        points = chaos.points(chaos.clean())
        once = chaos.faulty(Run((point,)) for point in points)
        print(table("one death", once), file=sys.stderr)
        twice = chaos.faulty(pairs(once))
        print(table("two deaths", twice), file=sys.stderr)
    broken = sum(bool(outcome.wrong) for outcome in [*once, *twice])
    return [
        Figure("chaos.points", len(points), "", "", "steps before and after which a process is killed"),
        Figure("chaos.runs", len(once) + len(twice), "", "", "runs with one death and with two"),
        Figure("chaos.broken", broken, "", "0", "runs that did not keep every promise"),
    ]


def _rentals(folder: Path, count: int) -> list[Figure]:
    with rental.rentals(folder, seed=SEED) as chaos:
        points = rental.points(chaos.clean(), again=True)
        once = chaos.all(rental.singles(points))
        print(table("one death", once), file=sys.stderr)
        elsewhere = rental.singles(points, What.SLEEPS) + rental.singles(points, What.IS_GONE)
        runs = rental.lies(points) + elsewhere + pairs(once, rental.READS)
        others = chaos.all(chaos.some(runs, count))
        print(table(f"{len(others)} of {len(runs)} others", others), file=sys.stderr)
    broken = sum(bool(outcome.wrong) for outcome in [*once, *others])
    return [
        Figure("chaos.rental_points", len(points), "", "", "steps before and after which the gateway may die"),
        Figure(
            "chaos.rental_runs", len(once) + len(others), "", "", f"runs, of {len(once) + len(runs)} that there are"
        ),
        Figure("chaos.rental_broken", broken, "", "0", "runs that left a machine or did not keep another promise"),
    ]


def _load(folder: Path, jobs: int) -> list[Figure]:
    report = Load(folder, seed=SEED, pretend=True).run(jobs)
    print(report, file=sys.stderr)
    kills = sum(report.kills.values())
    completed = report.ends["completed"]
    return [
        Figure("chaos.jobs", jobs, "", "", "jobs that were acknowledged"),
        Figure("chaos.kills", kills, "", "", "kill -9 of gateway, dispatcher or worker meanwhile"),
        Figure("chaos.completed", completed, "", "all", "jobs that ended with an output"),
        Figure("chaos.repeated", report.encodes - completed, "", "≤ workers killed", "encodes beyond one a job"),
        Figure("chaos.broken", len(report.wrong), "", "0", "promises that were not kept"),
    ]

"""Every point of a rental's life with every lie, and pairs of points; on one process more than there are processors."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path

from common import log
from tests.chaos.rental import LIES, Scene
from tests.chaos.runs import CLEAN_RUNS, Chaos, Outcome, Run, What
from tests.chaos.steps import Point

LANES = 1 + (os.cpu_count() or 1)
_START = ("__main__.", "create_app", "wiring.")
# Calls without an effect: a death there is one after the last step.
READS = (" GET ", " POST /api/v0/bundles/ ")
_scene: Scene | None = None


def points(clean: Iterable[Outcome], *, again: bool = False) -> list[Point]:
    """Every point that all clean runs reached, the first time only unless `again`."""
    steps = (point for outcome in clean for point in outcome.plan.points())
    seen = Counter(point for point in steps if not any(read in point.name for read in READS))
    return sorted(point for point, runs in seen.items() if runs == CLEAN_RUNS and (again or point.nth == 1))


def singles(points: Iterable[Point], what: What = What.DIES) -> list[Run]:
    """A run for each point. A gateway that does not come back has no other start, and none sleeps with SQLite's lock."""
    started = [point for point in points if what is What.DIES or not any(word in point.name for word in _START)]
    awake = [point for point in started if what is not What.SLEEPS or " before commit " not in point.name]
    return [Run((point,), what=what) for point in awake]


def lies(points: Iterable[Point]) -> list[Run]:
    """Every lie at every point."""
    return [Run((point,), lie) for point in points for lie in LIES]


@contextmanager
def rentals(home: Path, *, seed: int) -> Iterator[Chaos]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(LANES, mp_context=spawn, initializer=_begin, initargs=(home,)) as pool:
        yield Chaos(lambda runs: pool.map(_run, runs), seed)


def _begin(home: Path) -> None:
    global _scene
    log.configure("ERROR")
    _scene = Scene(Path(tempfile.mkdtemp(prefix="lane-", dir=home))).__enter__()
    util.Finalize(None, _scene.__exit__, exitpriority=1)


def _run(run: Run) -> Outcome:
    assert _scene is not None
    return _scene.run(run)

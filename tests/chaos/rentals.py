"""Every point of a rental's life with every lie, and pairs of points; on one process more than there are processors."""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path

from common import log
from tests.chaos.rental import LIES, Outcome, Run, Scene, What
from tests.chaos.steps import Point

CLEAN_RUNS = 3
_START = ("__main__.", "create_app", "wiring.")
# What only asks: whoever dies there dies as behind the last step.
_LOOKS = (" GET ", " POST /api/v0/bundles/ ")
_scene: Scene | None = None


class Rentals:
    """Runs, several at once."""

    def __init__(self, lanes: ProcessPoolExecutor, seed: int) -> None:
        self._lanes, self._random = lanes, random.Random(seed)

    def clean(self) -> list[Outcome]:
        return self.all([Run()] * CLEAN_RUNS)

    def some(self, runs: Sequence[Run], count: int) -> list[Run]:
        return self._random.sample(runs, min(count, len(runs)))

    def all(self, runs: Iterable[Run]) -> list[Outcome]:
        return list(self._lanes.map(_run, runs))


def points(clean: Iterable[Outcome], *, again: bool = False) -> list[Point]:
    """Every point that all clean runs came to, once; `again`: every time that they came there."""
    steps = (point for outcome in clean for point in outcome.plan.points())
    seen = Counter(point for point in steps if not any(look in point.name for look in _LOOKS))
    return sorted(point for point, runs in seen.items() if runs == CLEAN_RUNS and (again or point.nth == 1))


def singles(points: Iterable[Point], what: What = What.DIES) -> list[Run]:
    """None of a start for those who do not come back; and who sleeps before a commit holds SQLite's lock on it."""
    started = [point for point in points if what is What.DIES or not any(word in point.name for word in _START)]
    awake = [point for point in started if what is not What.SLEEPS or " before commit " not in point.name]
    return [Run((point,), what=what) for point in awake]


def lies(points: Iterable[Point]) -> list[Run]:
    """Every lie at every point."""
    return [Run((point,), lie) for point in points for lie in LIES]


def pairs(singles: Iterable[Outcome]) -> list[Run]:
    """After each first death every point that came after it."""
    found = {
        (*outcome.run.points, point)
        for outcome in singles
        for point in outcome.plan.points(1)
        if point.nth == 1 and not any(look in point.name for look in _LOOKS)
    }
    return [Run(pair) for pair in sorted(found)]


@contextmanager
def rentals(home: Path, *, seed: int, lanes: int = 1 + (os.cpu_count() or 1)) -> Iterator[Rentals]:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(lanes, mp_context=spawn, initializer=_begin, initargs=(home,)) as pool:
        yield Rentals(pool, seed)


def _begin(home: Path) -> None:
    global _scene
    log.configure("ERROR")
    _scene = Scene(Path(tempfile.mkdtemp(prefix="lane-", dir=home))).__enter__()
    util.Finalize(None, _scene.__exit__, (None, None, None), exitpriority=1)


def _run(run: Run) -> Outcome:
    assert _scene is not None
    return _scene.run(run)


def table(what: str, outcomes: list[Outcome]) -> str:
    """One line of figures, then a line for each run that was not well."""
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    seconds = sorted(outcome.seconds for outcome in outcomes) or [0.0]
    head = (
        f"{what}: {len(outcomes)} runs, {sum(outcome.reached for outcome in outcomes)} with all that was planned,"
        f" {len(wrong)} broken; {sum(outcome.creates for outcome in outcomes)} creations,"
        f" {sum(outcome.emulated_s for outcome in outcomes) / 3600:.1f} h of Vast.ai's time;"
        f" {seconds[len(seconds) // 2]:.1f} s in the middle, {seconds[-1]:.1f} s at most"
    )
    return "\n".join([head, *(f"  {outcome}" for outcome in wrong)])

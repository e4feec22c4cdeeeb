"""Every point of death of gateway and workers, and every pair of them."""

from __future__ import annotations

import os
import queue
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from tests.chaos.gateway import Zygote
from tests.chaos.runs import CLEAN_RUNS, Chaos, Outcome, Run
from tests.chaos.scene import FAULTS, Scene
from tests.chaos.steps import Point
from tests.chaos.worker import Workers

FAULTY = 0.3
# A run mostly waits for leases, silences and pauses to end; with more lanes than this, polling for that takes the CPUs.
LANES = 4 * (os.cpu_count() or 1)


class Matrix(Chaos):
    """Runs on as many scenes at once as there are, some of them with a fault at RunPod."""

    def __init__(self, scenes: list[Scene], threads: ThreadPoolExecutor, seed: int) -> None:
        super().__init__(lambda runs: threads.map(self._run, runs), seed)
        self._first_start, self._free = scenes[0].first_start, queue.SimpleQueue[Scene]()
        for scene in scenes:
            self._free.put(scene)

    def points(self, clean: Iterable[Outcome]) -> list[Point]:
        """Every step once, and its repetitions where every run repeats it, not just because time has passed."""
        seen = Counter(point for outcome in clean for point in outcome.plan.points())
        again = {point for point, runs in seen.items() if point.nth == 1 or runs == CLEAN_RUNS}
        return sorted(again.union(self._first_start))

    def faulty(self, runs: Iterable[Run]) -> list[Outcome]:
        """The outcomes of the runs, of which some get a fault."""
        names = list(FAULTS)
        return self.all(
            replace(run, fault=self.random.choice(names) if self.random.random() < FAULTY else None) for run in runs
        )

    def _run(self, run: Run) -> Outcome:
        scene = self._free.get()
        try:
            return scene.run(run)
        finally:
            self._free.put(scene)


@contextmanager
def matrix(home: Path, *, seed: int) -> Iterator[Matrix]:
    with ExitStack() as stack, ThreadPoolExecutor(LANES) as threads:
        gateways, workers = stack.enter_context(closing(Zygote())), stack.enter_context(closing(Workers()))
        homes = [home / f"lane-{lane}" for lane in range(LANES)]
        yield Matrix([stack.enter_context(Scene(each, gateways, workers)) for each in homes], threads, seed)

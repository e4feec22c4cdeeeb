"""Every point of death, and every pair of them."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from tests.chaos.gateway import Zygote
from tests.chaos.scene import Fault, Outcome, Scene
from tests.chaos.steps import Point
from tests.chaos.worker import Workers

Run = tuple[tuple[Point, ...], tuple[Fault, ...]]

# Faults at RunPod that cost a job no try.
FAULTS: tuple[Fault, ...] = (
    {"kind": "lost_reply", "on": "run"},
    {"kind": "lost_reply", "on": "hand-over"},
    {"kind": "status", "on": "status", "status": 502, "times": 3},
    {"kind": "garbage", "on": "status", "times": 2},
    {"kind": "slow", "on": "run", "seconds": 0.5},
    {"kind": "slow", "on": "job-done", "seconds": 0.5},
    {"kind": "lost_reply", "on": "webhook"},
    {"kind": "status", "on": "webhook", "status": 503},
)
FAULTY = 0.3
CLEAN_RUNS = 4
# A run mostly waits for leases, silences and pauses to end; with more lanes than this, polling for that takes the CPUs.
LANES = 4 * (os.cpu_count() or 1)


class Matrix:
    """Runs on as many scenes at once as there are `lanes`."""

    def __init__(self, scenes: list[Scene], seed: int) -> None:
        self._scenes, self._random = scenes, random.Random(seed)

    def clean(self) -> list[Outcome]:
        return [self._scenes[0].run() for _ in range(CLEAN_RUNS)]

    def points(self, clean: Iterable[Outcome]) -> list[Point]:
        """Every step once, and its repetitions where every run repeats it, not just because time has passed."""
        seen = Counter(point for outcome in clean for point in outcome.plan.points())
        again = {point for point, runs in seen.items() if point.nth == 1 or runs == CLEAN_RUNS}
        return sorted(again.union(self._scenes[0].first_start))

    def singles(self, points: Iterable[Point]) -> list[Outcome]:
        return self._all([((point,), self._faults()) for point in points])

    def pairs(self, singles: Iterable[Outcome], count: int | None = None) -> list[Outcome]:
        """After each first death, every point that followed it: `count` of these at random, or all."""
        pairs = sorted(
            (*outcome.deaths, point) for outcome in singles for point in outcome.plan.points(1) if point.nth == 1
        )
        if count is not None:
            pairs = self._random.sample(pairs, min(count, len(pairs)))
        return self._all([(pair, self._faults()) for pair in pairs])

    def _faults(self) -> tuple[Fault, ...]:
        return (self._random.choice(FAULTS),) if self._random.random() < FAULTY else ()

    def _all(self, runs: list[Run]) -> list[Outcome]:
        waiting, lock = iter(runs), threading.Lock()
        outcomes: list[Outcome] = []

        def work(scene: Scene) -> None:
            while True:
                with lock:
                    run = next(waiting, None)
                if run is None:
                    return
                outcomes.append(scene.run(*run))

        threads = [threading.Thread(target=work, args=(scene,)) for scene in self._scenes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == len(runs)
        return outcomes


@contextmanager
def matrix(home: Path, *, seed: int, lanes: int = LANES) -> Iterator[Matrix]:
    with ExitStack() as stack:
        gateways, workers = stack.enter_context(closing(Zygote())), stack.enter_context(closing(Workers()))
        homes = [home / f"lane-{lane}" for lane in range(lanes)]
        for each in homes:
            each.mkdir()
        yield Matrix([stack.enter_context(Scene(each, gateways, workers)) for each in homes], seed)


def table(what: str, outcomes: list[Outcome]) -> str:
    """One line of figures, then a line for each run that broke a promise."""
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    reached = sum(outcome.reached for outcome in outcomes)
    seconds = sorted(outcome.seconds for outcome in outcomes) or [0.0]
    head = (
        f"{what}: {len(outcomes)} runs, {reached} with every planned death, {len(wrong)} broken;"
        f" {sum(outcome.encodes for outcome in outcomes)} encodes, {sum(outcome.webhooks for outcome in outcomes)} webhooks"
        f" sent; {seconds[len(seconds) // 2]:.1f} s median, {seconds[-1]:.1f} s at most"
    )
    return "\n".join([head, *(f"  {outcome}" for outcome in wrong)])

"""Runs of one job with deaths and faults, their outcomes, and how runs are chosen and carried out, several at once."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.chaos.steps import Book, Plan, Point

CLEAN_RUNS = 4


class Broken(AssertionError):
    """A promise was broken."""


class What(StrEnum):
    """What happens to a process at the points of a run."""

    DIES = "dies"  # and is started again
    SLEEPS = "sleeps"  # longer than its lease, while another one goes on
    IS_GONE = "is gone"  # for ever


@dataclass(frozen=True)
class Run:
    """What is done to the processes, and by the provider."""

    #: where processes are interrupted, in this order
    points: tuple[Point, ...] = ()
    #: the name of the provider's fault, if there is one
    fault: str | None = None
    #: what happens to the processes at the points
    what: What = What.DIES


@dataclass
class Outcome:
    """What one run did."""

    run: Run
    #: the steps and deaths that took place
    plan: Plan = field(default_factory=Plan)
    #: the promises that were broken
    wrong: list[str] = field(default_factory=list)
    #: figures for the table, by their names
    counts: Counter[str] = field(default_factory=Counter)
    #: how long the run took
    seconds: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether all that was planned took place."""
        return len(self.plan.died) == len(self.run.points)

    def __str__(self) -> str:
        points = f"{self.run.what} {', then '.join(map(str, self.run.points))}" if self.run.points else "no death"
        return f"{points}, {self.run.fault or 'no fault'}: {'; '.join(self.wrong) or 'well'} ({self.seconds:.1f} s)"


class Stage(ABC):
    """Carries out runs, one after the other, in folders below `home`."""

    def __init__(self, home: Path) -> None:
        self.home, self.book, self.past = home, Book(home), home / "past"
        self._runs = 0

    def run(self, run: Run) -> Outcome:
        self._runs += 1
        outcome, home, began = Outcome(run), self.home / f"run-{self._runs}", time.monotonic()
        self._carry_out(outcome, home)
        outcome.seconds = time.monotonic() - began
        if not outcome.wrong:
            shutil.rmtree(home)
        return outcome

    @abstractmethod
    def _carry_out(self, outcome: Outcome, home: Path) -> None:
        """Do the run in `home`, and complete the outcome."""

    @contextmanager
    def _planned(self, outcome: Outcome) -> Iterator[None]:
        """Deaths take place inside. What is raised there goes to the outcome."""
        self.book.open(*outcome.run.points, sleep=outcome.run.what is What.SLEEPS)
        try:
            yield
        except Exception as error:
            outcome.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            outcome.plan = self.book.close()


class Chaos:
    """Chooses runs at random, and has them carried out by `carry_out`."""

    def __init__(self, carry_out: Callable[[Iterable[Run]], Iterable[Outcome]], seed: int) -> None:
        self._carry_out, self.random = carry_out, random.Random(seed)

    def all(self, runs: Iterable[Run]) -> list[Outcome]:
        return list(self._carry_out(runs))

    def some(self, runs: Sequence[Run], count: int) -> list[Run]:
        return self.random.sample(runs, min(count, len(runs)))

    def clean(self) -> list[Outcome]:
        return self.all([Run()] * CLEAN_RUNS)


def pairs(singles: Iterable[Outcome], without: Collection[str] = ()) -> list[Run]:
    """After each first death every point that followed it, except steps whose name contains a word of `without`."""
    found = {
        (*outcome.run.points, point)
        for outcome in singles
        for point in outcome.plan.points(1)
        if point.nth == 1 and not any(word in point.name for word in without)
    }
    return [Run(pair) for pair in sorted(found)]


def table(what: str, outcomes: list[Outcome]) -> str:
    """One line of figures, then a line for each run that broke a promise."""
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    seconds = [outcome.seconds for outcome in outcomes] or [0.0]
    counts = sum((outcome.counts for outcome in outcomes), Counter[str]())
    head = (
        f"{what}: {len(outcomes)} runs, {sum(outcome.reached for outcome in outcomes)} with all that was planned,"
        f" {len(wrong)} broken; {', '.join(f'{count} {name}' for name, count in counts.items())};"
        f" {statistics.median(seconds):.1f} s median, {max(seconds):.1f} s at most"
    )
    return "\n".join([head, *(f"  {outcome}" for outcome in wrong)])

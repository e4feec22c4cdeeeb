"""What is overdue is called, what is over is not, and all on one thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.servers import eventually
from wire.watch import after


def test_what_lasts_too_long_is_called_once() -> None:
    calls: list[float] = []
    began_at = time.monotonic()
    with after(0.05, lambda: calls.append(time.monotonic())):
        eventually(lambda: calls, 2)
        time.sleep(0.1)
    assert len(calls) == 1 and calls[0] - began_at >= 0.05


def test_what_is_over_in_time_is_not_called() -> None:
    calls: list[int] = []
    with after(0.05, lambda: calls.append(1)):
        pass
    time.sleep(0.15)
    assert calls == []


def test_without_a_time_nothing_is_called() -> None:
    calls: list[int] = []
    with after(None, lambda: calls.append(1)):
        time.sleep(0.1)
    assert calls == []


def test_the_soonest_is_called_first_whoever_came_first() -> None:
    calls: list[str] = []
    with after(0.2, lambda: calls.append("late")), after(0.05, lambda: calls.append("soon")):
        eventually(lambda: len(calls) == 2, 2)
    assert calls == ["soon", "late"]


def test_who_wants_it_is_called_again_until_it_is_over() -> None:
    calls: list[float] = []

    def again() -> float | None:
        calls.append(time.monotonic())
        return 0.02 if len(calls) < 4 else None

    with after(0.0, again):
        eventually(lambda: len(calls) == 4, 2)
        time.sleep(0.1)
    assert len(calls) == 4
    assert all(later - earlier >= 0.02 for earlier, later in pairwise(calls))
    with after(0.0, lambda: calls.append(0.0) or 0.01):
        eventually(lambda: len(calls) > 6, 2)
    time.sleep(0.05)
    over = len(calls)
    time.sleep(0.1)
    assert len(calls) == over


@pytest.mark.parametrize("error", [OSError("Bad file descriptor"), TypeError("a bug")], ids=["closed", "bug"])
def test_no_error_of_one_ends_the_watch_over_the_others(error: Exception) -> None:
    def fail() -> None:
        raise error

    calls: list[int] = []
    with after(0.0, fail), after(0.05, lambda: calls.append(1)):
        eventually(lambda: calls, 2)


def test_a_hundred_at_once_are_watched_by_one_thread() -> None:
    called: set[int] = set()

    def watched(number: int) -> None:
        with after(0.2 if number % 10 == 0 else 60, lambda: called.add(number)):
            if number % 10 == 0:
                eventually(lambda: number in called, 5)

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(watched, range(1000)))
    assert called == set(range(0, 1000, 10))
    assert [thread.name for thread in threading.enumerate()].count("watch") == 1


# In a process of its own, as a fork of this one, which has threads, may hang for other reasons.
IN_A_FORK = """
import os, threading, time
from wire.watch import after

ours = threading.Event()
with after(0.3, ours.set):
    with after(60, lambda: None):
        time.sleep(0.05)  # the thread waits now, for the first of the two
        child = os.fork()
        if child == 0:
            called = threading.Event()
            with after(30, lambda: None):
                time.sleep(0.05)
                with after(0.05, called.set):
                    ends_well = called.wait(5)
            time.sleep(0.4)
            os._exit(0 if ends_well and not ours.is_set() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.wait(5)
"""


def test_a_fork_has_a_watch_of_its_own_and_leaves_the_calls_of_its_parent_alone() -> None:
    subprocess.run([sys.executable, "-c", IN_A_FORK], check=True, timeout=30)

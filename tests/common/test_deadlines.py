"""Overdue actions are called, others are not, and all on one thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

from common.deadlines import after
from tests.servers import eventually


def a_while(seconds: float = 0.1) -> None:
    """Wait until everything that is due within `seconds` has been called: one thread calls in order."""
    over = threading.Event()
    with after(seconds, over.set):
        assert over.wait(30)


@contextmanager
def busy_watch() -> Iterator[None]:
    """Nothing is called inside the block."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        leave.wait(30)

    with after(0.0, hold):
        assert inside.wait(30)
    try:
        yield
    finally:
        leave.set()


def test_an_overdue_action_is_called_once() -> None:
    calls: list[float] = []
    began_at = time.monotonic()
    with after(0.05, lambda: calls.append(time.monotonic())):
        eventually(lambda: calls)
        a_while()
    assert len(calls) == 1 and calls[0] - began_at >= 0.05


def test_a_block_that_ends_in_time_calls_nothing() -> None:
    calls: list[int] = []
    with busy_watch(), after(0.0, lambda: calls.append(1)), after(None, lambda: calls.append(2)):
        pass
    a_while()
    assert calls == []


def test_actions_are_called_in_the_order_of_their_deadlines() -> None:
    calls: list[str] = []
    with ExitStack() as stack:
        with busy_watch():
            stack.enter_context(after(0.2, lambda: calls.append("late")))
            stack.enter_context(after(0.05, lambda: calls.append("soon")))
        eventually(lambda: len(calls) == 2)
    assert calls == ["soon", "late"]


def test_an_earlier_action_interrupts_the_wait_for_a_later_one() -> None:
    calls: list[str] = []
    with after(3600, lambda: calls.append("late")):
        a_while()
        with after(0.0, lambda: calls.append("soon")):
            eventually(lambda: calls)
    assert calls == ["soon"]


def test_an_action_may_ask_to_be_called_again() -> None:
    calls: list[float] = []

    def again() -> float | None:
        calls.append(time.monotonic())
        return 0.02 if len(calls) < 4 else None

    with after(0.0, again):
        eventually(lambda: len(calls) == 4)
        a_while()
    assert len(calls) == 4
    assert all(later - earlier >= 0.02 for earlier, later in pairwise(calls))
    with after(0.0, lambda: calls.append(0.0) or 0.01):
        eventually(lambda: len(calls) > 6)
    a_while(0.0)  # one may be in progress
    over = len(calls)
    a_while()
    assert len(calls) == over


@pytest.mark.parametrize("error", [OSError("Bad file descriptor"), TypeError("a bug")], ids=["closed", "bug"])
def test_an_error_of_an_action_does_not_stop_the_others(error: Exception) -> None:
    def fail() -> None:
        raise error

    calls: list[int] = []
    with after(0.0, fail), after(0.05, lambda: calls.append(1)):
        eventually(lambda: calls)


def test_a_hundred_blocks_share_one_thread() -> None:
    called: set[int] = set()

    def watched(number: int) -> None:
        with after(0.2 if number % 10 == 0 else 60, lambda: called.add(number)):
            if number % 10 == 0:
                eventually(lambda: number in called)

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(watched, range(1000)))
    assert called == set(range(0, 1000, 10))
    assert [thread.name for thread in threading.enumerate()].count("watch") == 1


# In a separate process: a fork of this one, which has threads, may hang for other reasons.
IN_A_FORK = """
import os, threading, time
from common.deadlines import after

called_in, ours = [], threading.Event()
with after(0.3, lambda: (called_in.append(os.getpid()), ours.set()) and None):
    with after(60, lambda: None):
        time.sleep(0.05)  # the thread waits now, for the first of the two
        child = os.fork()
        if child == 0:
            called = threading.Event()
            with after(60, lambda: None), after(0.5, called.set):  # later than the parent's
                ends_well = called.wait(30)
            os._exit(0 if ends_well and os.getpid() not in called_in else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ours.wait(30)
    assert called_in == [os.getpid()]
"""


def test_a_fork_has_its_own_thread_and_not_its_parent_s_actions() -> None:
    subprocess.run([sys.executable, "-c", IN_A_FORK], check=True, timeout=120)

"""What is overdue is called, what is over is not, and all on one thread."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

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
    with after(None, lambda: 1 / 0):
        pass


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


def test_a_connection_that_is_closed_already_ends_no_watch() -> None:
    def closed() -> None:
        raise OSError("Bad file descriptor")

    calls: list[int] = []
    with after(0.0, closed), after(0.05, lambda: calls.append(1)):
        eventually(lambda: calls, 2)


def test_a_thousand_at_once_are_watched_by_one_thread() -> None:
    called: set[int] = set()

    def watched(number: int) -> None:
        with after(0.3 if number % 10 == 0 else 60, lambda: called.add(number)):
            time.sleep(0.6 if number % 10 == 0 else 0)

    with ThreadPoolExecutor(100) as pool:
        list(pool.map(watched, range(1000)))
    assert called == set(range(0, 1000, 10))
    assert [thread.name for thread in threading.enumerate()].count("watch") == 1


def _watched_in_a_fork(told: multiprocessing.SimpleQueue[bool]) -> None:
    called = threading.Event()
    with after(0.05, called.set):  # type: ignore[arg-type]
        told.put(called.wait(5))


def test_a_fork_has_a_watch_of_its_own() -> None:
    with after(60, lambda: None):
        context = multiprocessing.get_context("fork")
        told = context.SimpleQueue()
        process = context.Process(target=_watched_in_a_fork, args=(told,))
        process.start()
        process.join(10)
        assert process.exitcode == 0 and told.get()

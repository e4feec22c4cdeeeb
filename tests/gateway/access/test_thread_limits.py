"""How many threads may be held."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from gateway.access.thread_limits import ThreadLimits, held


def test_a_thread_is_given_back_once_when_its_block_ends() -> None:
    limit = threading.BoundedSemaphore(1)
    with pytest.raises(RuntimeError), held(limit) as taken:
        assert taken
        with held(limit) as refused:
            assert not refused
        raise RuntimeError
    assert [limit.acquire(blocking=False) for _ in range(2)] == [True, False]


def test_one_key_holds_no_more_waiting_threads_than_its_limit() -> None:
    limits = ThreadLimits(8, per_key=2)
    with limits.waiting_for("a") as one, limits.waiting_for("a") as two, limits.waiting_for("a") as three:
        assert (one, two, three) == (True, True, False)
        with limits.waiting_for("b") as four, limits.waiting_for("b") as five, limits.waiting_for("c") as six:
            assert (four, five, six) == (True, True, False), "all keys together hold half of the threads"
    with limits.waiting_for("a") as again:
        assert again
    assert not limits._waiting_of


def test_without_a_limit_one_key_may_hold_all_waiting_threads() -> None:
    limits = ThreadLimits(8)
    with ExitStack() as stack:
        found = [stack.enter_context(limits.waiting_for("a")) for _ in range(5)]
    assert found == [True] * 4 + [False]


@pytest.mark.parametrize("threads", [4, 5, 16, 256])
def test_waiting_and_transfers_leave_a_quarter_free(threads: int) -> None:
    limits = ThreadLimits(threads)
    waiting = sum(limits.waiting.acquire(blocking=False) for _ in range(threads))
    transfers = sum(limits.transfers.take(f"key_{number}") for number in range(threads))
    assert (waiting, transfers) == (threads // 2, threads // 4)
    assert threads - waiting - transfers >= 1

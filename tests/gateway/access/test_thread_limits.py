"""How many threads may be held."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from gateway.access.thread_limits import ThreadLimit, ThreadLimits


def test_no_more_than_its_size_is_handed_out() -> None:
    share = ThreadLimit(2)
    assert [share.take() for _ in range(3)] == [True, True, False]
    share.give_back()
    assert share.take()


def test_a_share_is_given_back_when_the_block_raises() -> None:
    share = ThreadLimit(1)
    with pytest.raises(RuntimeError), share.held() as taken:
        assert taken
        raise RuntimeError
    assert share.take()


def test_a_block_that_got_nothing_gives_nothing_back() -> None:
    share = ThreadLimit(1)
    share.take()
    with share.held() as taken:
        assert not taken
    assert not share.take()


def test_giving_back_too_often_is_noticed() -> None:
    with pytest.raises(ValueError, match="too many times"):
        ThreadLimit(1).give_back()


def test_many_threads_never_hold_more_than_there_are() -> None:
    share, barrier = ThreadLimit(3), threading.Barrier(20)

    def one(_: int) -> bool:
        barrier.wait()
        return share.take()

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(one, range(20))) == 3


def test_one_key_holds_no_more_than_its_part_of_those_that_wait() -> None:
    shares = ThreadLimits(8, per_key=2)
    with shares.waiting_for("a") as one, shares.waiting_for("a") as two, shares.waiting_for("a") as three:
        assert (one, two, three) == (True, True, False)
        with shares.waiting_for("b") as four, shares.waiting_for("b") as five, shares.waiting_for("c") as six:
            assert (four, five, six) == (True, True, False), "all keys together hold half of the threads"
    with shares.waiting_for("a") as again:
        assert again
    assert not shares._waiting_of


def test_without_a_part_of_its_own_one_key_may_hold_all_that_wait() -> None:
    shares = ThreadLimits(8)
    with ExitStack() as stack:
        held = [stack.enter_context(shares.waiting_for("a")) for _ in range(5)]
    assert held == [True] * 4 + [False]


@pytest.mark.parametrize("threads", [4, 5, 16, 256])
def test_waiting_and_transfers_leave_a_quarter_free(threads: int) -> None:
    shares = ThreadLimits(threads)
    waiting = sum(shares.waiting.take() for _ in range(threads))
    transfers = sum(shares.transfers.take() for _ in range(threads))
    assert (waiting, transfers) == (threads // 2, threads // 4)
    assert threads - waiting - transfers >= 1

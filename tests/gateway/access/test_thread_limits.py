"""How many threads may be held."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from common.http_server import AWAY
from gateway.access.thread_limits import IN_PROGRESS_PER_KEY, TRANSFERS, WAITING, Shares, ThreadLimits


def test_a_place_is_given_back_once_when_its_block_ends() -> None:
    shares = Shares(1, 1)
    with pytest.raises(RuntimeError), shares.held("a") as taken:
        assert taken
        with shares.held("a") as refused:
            assert not refused
        raise RuntimeError
    assert [shares.take("a") for _ in range(2)] == [True, False]


def test_one_name_holds_no_more_than_its_share() -> None:
    shares = Shares(4, 2)
    with shares.held("a") as one, shares.held("a") as two, shares.held("a") as three:
        assert (one, two, three) == (True, True, False)
        with shares.held("b") as four, shares.held("b") as five, shares.held("c") as six:
            assert (four, five, six) == (True, True, False), "all together hold no more than there is"
    with shares.held("a") as again:
        assert again
    assert not shares._held


@pytest.mark.parametrize(("per_key", "expected"), [(0, WAITING // 2), (3, 3)])
def test_one_key_may_wait_for_so_many_jobs(per_key: int, expected: int) -> None:
    limits = ThreadLimits(16, per_key)
    with ExitStack() as stack:
        found = [stack.enter_context(limits.waiting.held("a")) for _ in range(expected + 5)]
    assert found == [True] * expected + [False] * 5


def test_no_key_can_hold_all_threads() -> None:
    assert WAITING + TRANSFERS < AWAY
    assert IN_PROGRESS_PER_KEY <= AWAY // 2
    assert WAITING // 2 < IN_PROGRESS_PER_KEY

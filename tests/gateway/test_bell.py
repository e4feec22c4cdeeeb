"""Waking threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.bell import Bell


def test_a_ring_between_look_and_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    bell = Bell()
    seen = bell.rings
    bell.ring()
    monkeypatch.setattr(bell._condition, "wait", lambda timeout=None: pytest.fail("it waits for another"))
    assert bell.wait(seen, 20) == 1


def test_a_ring_wakes_everybody() -> None:
    bell, ready = Bell(), threading.Barrier(9)

    def one(_: int) -> int:
        seen = bell.rings
        ready.wait()
        return bell.wait(seen, 120)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one, i) for i in range(8)]
        ready.wait()
        bell.ring()
        assert [future.result(30) for future in waiting] == [1] * 8


def test_without_a_ring_the_wait_ends() -> None:
    bell = Bell()
    assert bell.wait(bell.rings, 0.01) == 0

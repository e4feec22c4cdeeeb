"""Waking threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.dispatch.notifier import ChangeNotifier


def test_a_change_between_look_and_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    notifier = ChangeNotifier()
    seen = notifier.changes
    notifier.notify()
    monkeypatch.setattr(notifier._condition, "wait", lambda timeout=None: pytest.fail("it waits for another"))
    assert notifier.wait(seen, 20) == 1


def test_a_change_wakes_all_waiters() -> None:
    notifier, ready = ChangeNotifier(), threading.Barrier(9)

    def one(_: int) -> int:
        seen = notifier.changes
        ready.wait()
        return notifier.wait(seen, 120)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(one, i) for i in range(8)]
        ready.wait()
        notifier.notify()
        assert [future.result(30) for future in waiting] == [1] * 8


def test_a_wait_ends_without_a_change() -> None:
    notifier = ChangeNotifier()
    assert notifier.wait(notifier.changes, 0.01) == 0

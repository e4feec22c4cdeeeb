"""Who gets the next turn."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gateway.access.rotation import Rotation
from tests.servers import eventually


@pytest.fixture
def line_up() -> Callable[..., list[str]]:
    """Lines names up behind a turn that is taken, then ends it. Returns the order of their turns."""

    def run(*names: str) -> list[str]:
        turns, order = Rotation(), []
        threads = [threading.Thread(target=_take, args=(turns, name, order)) for name in names]
        with turns.turn("first"):
            for number, thread in enumerate(threads, 1):
                thread.start()
                eventually(lambda number=number: sum(map(len, turns._waiting.values())) == number)  # type: ignore[misc]
            assert order == []
        for thread in threads:
            thread.join(30)
        with turns.turn("last"):
            return order

    return run


def _take(turns: Rotation, name: str, order: list[str]) -> None:
    with turns.turn(name):
        order.append(name)


def test_a_name_with_many_delays_another_by_one(line_up: Callable[..., list[str]]) -> None:
    assert line_up("a", "a", "a", "a", "b", "c", "b") == ["a", "b", "c", "a", "b", "a", "a"]


def test_an_error_ends_a_turn() -> None:
    turns = Rotation()
    with pytest.raises(ZeroDivisionError), turns.turn("a"):
        raise ZeroDivisionError
    with turns.turn("a"):
        pass

"""How many requests with one key are worked on at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.access.turns import Turn, Turns
from tests.servers import eventually


@dataclass
class Connection:
    """What the server knows of a request."""

    place: Any


def with_place() -> Connection:
    place = threading.BoundedSemaphore(1)
    place.acquire()
    return Connection(place)


def waiting(turn: Turn) -> threading.Thread:
    """A thread that waits for the turn."""
    thread = threading.Thread(target=turn.wait, daemon=True)
    thread.start()
    return thread


def free(place: threading.BoundedSemaphore) -> int:
    """How often the place can be taken."""
    taken = 0
    while place.acquire(blocking=False):
        taken += 1
    for _ in range(taken):
        place.release()
    return taken


@pytest.mark.parametrize("connection", [lambda: None, with_place])
def test_requests_of_a_key_wait_for_their_turn_and_those_of_others_do_not(connection: Callable[[], Any]) -> None:
    turns = Turns(2)
    first, second, third = (Turn(turns, "a", connection()) for _ in range(3))
    for turn in (first, second):
        turn.wait()
    late = waiting(third)
    Turn(turns, "b", connection()).wait()
    late.join(0.1)
    assert late.is_alive()
    first.end()
    late.join(30)
    assert not late.is_alive()


def test_a_request_that_waits_for_its_turn_lends_its_place() -> None:
    turns, places = Turns(1), threading.BoundedSemaphore(2)
    for _ in range(2):
        places.acquire()
    first, second = (Turn(turns, "a", Connection(places)) for _ in range(2))
    first.wait()
    late = waiting(second)
    eventually(lambda: free(places) == 1)
    first.end()
    late.join(30)
    assert free(places) == 0


def test_a_request_that_lends_its_place_lends_its_turn() -> None:
    """While it waits for a job or for its client, another one of its key is worked on."""
    turns, places = Turns(1), threading.BoundedSemaphore(2)
    connection = Connection(places)
    places.acquire()
    first, second = Turn(turns, "a", connection), Turn(turns, "a")
    first.wait()
    connection.place.release()
    second.wait()
    assert free(places) == 2
    back = threading.Thread(target=connection.place.acquire, daemon=True)
    back.start()
    back.join(0.1)
    assert back.is_alive() and free(places) == 2, "it holds no place while it waits for its turn"
    second.end()
    back.join(30)
    first.end()
    assert connection.place is places and free(places) == 1


def test_nothing_is_remembered_of_keys_without_requests() -> None:
    turns = Turns(1)
    for name in ("a", "b"):
        turn = Turn(turns, name)
        turn.wait()
        turn.end()
    assert not turns._turns and not turns._requests

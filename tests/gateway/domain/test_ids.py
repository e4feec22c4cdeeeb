"""Ids sort by time and contain it."""

from __future__ import annotations

from gateway.domain import ids
from tests.gateway.conftest import START_MS


def test_an_id_tells_when_it_was_made() -> None:
    for id_ in (ids.new("job", START_MS), ids.ulid(START_MS), ids.first("att", START_MS)):
        assert ids.made_at(id_) == START_MS


def test_ids_of_a_time_lie_between_the_first_ones() -> None:
    for _ in range(100):
        assert ids.first("job", START_MS) <= ids.new("job", START_MS) < ids.first("job", START_MS + 1)

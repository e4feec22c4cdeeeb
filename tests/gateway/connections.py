"""No test leaves a thread that takes a second connection of SQLite's few."""

from __future__ import annotations

import sqlite3
import threading
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool


class Holders:
    """Which thread has which connections of a pool; `greedy` are those that had one when they took another."""

    def __init__(self) -> None:
        self._holders: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self.greedy: list[str] = []

    def takes(self, connection: Any, record: Any, _: Any) -> None:
        holder = threading.get_ident(), id(record._ConnectionRecord__pool)
        with self._lock:
            others = [held for held, its in self._holders.items() if its == holder and held != id(record)]
            if others and isinstance(connection, sqlite3.Connection):
                self.greedy.append("".join(traceback.format_stack()))
            self._holders[id(record)] = holder

    def gives(self, _: Any, record: Any) -> None:
        with self._lock:
            self._holders.pop(id(record), None)


@pytest.fixture(scope="session")
def holders() -> Iterator[Holders]:
    holders = Holders()
    sa.event.listen(Pool, "checkout", holders.takes)
    sa.event.listen(Pool, "checkin", holders.gives)
    yield holders
    sa.event.remove(Pool, "checkout", holders.takes)
    sa.event.remove(Pool, "checkin", holders.gives)


@pytest.fixture(autouse=True)
def no_thread_takes_two_connections(holders: Holders) -> Iterator[None]:
    """Threads that each have one of SQLite's few and wait for another would wait for each other."""
    yield
    greedy, holders.greedy = holders.greedy, []
    assert greedy == []

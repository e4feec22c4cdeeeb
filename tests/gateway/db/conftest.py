"""Stores on the test's database, each as another process has one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from gateway.db.engine import make_engine
from gateway.db.store import Store


@pytest.fixture
def opened(database: str) -> Iterator[Callable[..., Store]]:
    """Opens the database, as one more process would; `options` are those of `make_engine`."""
    engines: list[sa.Engine] = []

    def open_(**options: int) -> Store:
        engines.append(make_engine(database, pool_size=12, **options))
        return Store(engines[-1])

    yield open_
    for engine in engines:
        engine.dispose()


@pytest.fixture
def store(opened: Callable[[], Store]) -> Store:
    return opened()

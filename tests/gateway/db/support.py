"""What the tests of the database share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gateway.db.store import Store
from gateway.domain.jobs import Job
from tests.gateway.conftest import PARAMS, START_MS

NOW = START_MS


def add(store: Store, *records: Job) -> list[Job]:
    with store.transaction() as tx:
        for job in records:
            tx.add_job(job, PARAMS)
    return list(records)


def together(count: int, work: Callable[[int], object]) -> list[object]:
    """`work(0..count-1)`, all let go at the same moment."""
    barrier = threading.Barrier(count)

    def one(number: int) -> object:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))

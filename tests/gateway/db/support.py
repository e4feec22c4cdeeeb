"""What the tests of the database share."""

from __future__ import annotations

from gateway.db.store import Store
from gateway.domain.jobs import Job
from tests.gateway.conftest import PARAMS_TEXT, START_MS

NOW = START_MS


def add(store: Store, *records: Job) -> list[Job]:
    with store.transaction() as tx:
        for job in records:
            tx.add_job(job, PARAMS_TEXT)
    return list(records)

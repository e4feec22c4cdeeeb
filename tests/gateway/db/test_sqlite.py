"""What SQLite alone must do."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.db.engine import MAX_CONNECTIONS, make_engine
from gateway.db.store import Store
from gateway.domain.jobs import Job
from tests.gateway.conftest import PARAMS_TEXT, START_MS, new_job


def test_it_waits_for_the_disk_and_checks_foreign_keys(store: Store) -> None:
    with store._engine.connect() as connection:
        read = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
        assert read == ["wal", 2]
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_a_read_is_one_statement_and_a_write_one_transaction(store: Store) -> None:
    """Each further statement gives Python's lock to other threads, in every request."""
    job, seen = new_job(START_MS), list[str]()
    store.add_job(job, PARAMS_TEXT)
    with store._engine.connect() as connection:  # the one that is used next
        connection.connection.driver_connection.set_trace_callback(seen.append)
    for read in (lambda: store.job(job.id), lambda: store.attempts(job.id), lambda: store.usage("key_a", START_MS)):
        read()
        assert [statement.split()[0] for statement in seen] == ["SELECT"]
        seen.clear()
    with store.transaction() as tx:
        tx.save_job(replace(job, waits=1))
    assert (seen[0], seen[-1]) == ("BEGIN IMMEDIATE", "COMMIT")


def test_a_writer_of_another_process_is_waited_for(store: Store) -> None:
    job = new_job(START_MS)
    with store.transaction() as tx:
        tx.add_job(job, PARAMS_TEXT)
    with closing(sqlite3.connect(store._engine.url.database, check_same_thread=False)) as other:
        other.isolation_level = None
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, other.execute, ["COMMIT"])
        timer.start()
        with store.transaction() as tx:
            tx.save_job(replace(job, waits=7))
        timer.join()
    assert store.job(job.id).waits == 7


def test_ping_raises_when_the_tables_are_missing(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'empty.db'}", pool_size=1)
    with pytest.raises(sa.exc.SQLAlchemyError):
        Store(engine).ping()
    engine.dispose()


def test_more_threads_than_connections_wait_for_each_other_and_all_are_served(store: Store) -> None:
    made = [new_job(START_MS) for _ in range(8 * MAX_CONNECTIONS)]

    def use(job: Job) -> Job | None:
        store.add_job(job, PARAMS_TEXT)
        store.together(lambda tx: tx.save_job(replace(job, waits=1)))
        with store._engine.connect() as connection:
            connection.execute(sa.text("SELECT count(*) FROM jobs"))
        return store.job(job.id)

    with ThreadPoolExecutor(len(made)) as threads:
        assert list(threads.map(use, made)) == [replace(job, waits=1) for job in made]
    assert store._engine.pool.checkedin() <= MAX_CONNECTIONS


def test_a_damaged_page_is_forgotten_when_the_file_is_repaired(store: Store) -> None:
    job = new_job(START_MS)
    store.add_job(job, PARAMS_TEXT)
    path = Path(store._engine.url.database)
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("PRAGMA shrink_memory")
    sound = path.read_bytes()
    path.write_bytes(sound[:100] + b"this was a database once. " * 4000)
    with pytest.raises(sa.exc.DatabaseError, match="malformed|not a database"):
        store.job(job.id)
    path.write_bytes(sound)
    assert store.job(job.id) == job

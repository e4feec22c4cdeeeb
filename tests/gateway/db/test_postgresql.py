"""What PostgreSQL alone must do, where transactions run side by side and connections cross a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.db.engine import make_engine
from gateway.db.store import Store
from tests.gateway.conftest import new_job, together
from tests.gateway.db.support import NOW, add
from tests.servers import eventually

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

UNTIL = NOW + 60_000
Open = Callable[..., Store]


def test_a_dispatcher_does_not_wait_for_jobs_that_are_being_written(opened: Open) -> None:
    one, two = opened(), opened(statement_s=2)
    first, second = add(one, new_job(NOW), new_job(NOW + 1))
    with one.transaction() as tx:
        tx.job(first.id)  # locked, as by an event
        with two.transaction() as other:
            assert [job.id for job in other.lease([first.id, second.id], "t", NOW + 1, UNTIL)] == [second.id]
    assert one.job(first.id).lease_token is None


def test_waking_passes_a_locked_job_by(opened: Open) -> None:
    one, two = opened(), opened(statement_s=2)
    oldest, next_one = add(one, *(new_job(NOW + i, waits=1, next_at=NOW + 9_000) for i in range(2)))
    with one.transaction() as tx:
        tx.save_job(replace(oldest, lease_token="t", lease_expires_at=UNTIL))
        with two.transaction() as other:
            other.wake_next_waiting(NOW + 5)
    assert one.job(oldest.id).next_at == NOW + 9_000
    assert one.job(next_one.id).next_at == NOW + 5


def test_jobs_that_wake_each_other_never_deadlock(opened: Open) -> None:
    """Each holds one job and wakes another: the server would break a circle of locks with an error."""
    stores = [opened() for _ in range(3)]
    made = add(stores[0], *(new_job(NOW + i, waits=1, next_at=NOW + 9_000) for i in range(6)))

    def end(number: int) -> None:
        for _ in range(20):
            with stores[number % 3].transaction() as tx:
                tx.job(made[number].id)
                tx.wake_next_waiting(NOW)
            with stores[number % 3].transaction() as tx:
                job = tx.job(made[number].id)
                tx.save_job(replace(job, next_at=NOW + 9_000))

    together(6, end)


def test_a_statement_ends_after_its_time(opened: Open) -> None:
    one, two = opened(), opened(statement_s=1)
    (job,) = add(one, new_job(NOW))
    with one.transaction() as tx:
        tx.job(job.id)
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"), two.transaction() as other:
            other.job(job.id)


def test_a_process_that_freezes_in_a_transaction_loses_its_locks(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.db.engine.IDLE_S", 1)
    frozen, alive = opened(), opened()
    (job,) = add(frozen, new_job(NOW))
    with pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction"), frozen.transaction() as tx:
        tx.job(job.id)
        with alive.transaction() as other:  # waits until the server ends the one that says nothing
            other.save_job(replace(job, progress=0.5))
        tx.save_job(job)
    assert alive.job(job.id).progress == 0.5
    assert frozen.job(job.id).progress == 0.5  # on a new connection


def test_a_server_that_was_restarted_is_found_again(opened: Open) -> None:
    store = opened()
    (job,) = add(store, new_job(NOW))
    with opened()._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(sa.text(f"SELECT pg_terminate_backend(pid) {others}"))
        eventually(lambda: connection.scalar(sa.text(f"SELECT count(*) {others}")) == 0)
    assert store.job(job.id) == job


def test_a_silent_connection_or_server_has_a_timeout(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(sa, "create_engine", lambda url, **options: given.update(options["connect_args"]))
    make_engine(database)
    assert given["connect_timeout"] == 5
    assert given["tcp_user_timeout"] == 30_000
    make_engine(database, statement_s=0)  # for migrations
    limits = "-c statement_timeout=0s -c idle_in_transaction_session_timeout=0s"
    assert given["options"] == f"-c synchronous_commit=on {limits}"

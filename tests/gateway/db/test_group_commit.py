"""SQLite: writers that share a commit, of which each fails alone and none is lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.db import group_commit
from gateway.db.store import Store
from gateway.db.transaction import StaleLease, Transaction
from gateway.domain.jobs import Job
from tests.gateway.conftest import PARAMS_TEXT, new_job, together
from tests.gateway.db.support import NOW, add
from tests.servers import eventually


def test_jobs_that_come_at_once_are_committed_before_their_calls_return(opened: Callable[[], Store]) -> None:
    store, other = opened(), opened()
    made = [new_job(NOW) for _ in range(60)]

    def add_and_look(number: int) -> object:
        found = []
        for job in made[number * 5 : number * 5 + 5]:
            store.add_job(job, PARAMS_TEXT)
            found.append(other.job(job.id))
        return found

    assert together(12, add_and_look) == [made[i * 5 : i * 5 + 5] for i in range(12)]


def test_a_job_that_cannot_be_stored_fails_alone(store: Store) -> None:
    (twice,) = add(store, new_job(NOW))
    good = [new_job(NOW) for _ in range(6)]

    def add_one(number: int) -> object:
        if number == 3:
            with pytest.raises(IntegrityError):
                store.add_job(twice, PARAMS_TEXT)
        else:
            store.add_job(good[number - (number > 3)], PARAMS_TEXT)
        return number

    with ThreadPoolExecutor(1) as outside:
        with store.transaction():  # all wait for its end and are committed as one
            done = outside.submit(together, 7, add_one)
            eventually(lambda: len(store._writers._arrived) == 7)
        done.result(10)
    assert [store.job(job.id) for job in good] == good


def at_once(store: Store, *works: Callable[[], object]) -> list[Future[object]]:
    """The futures of `works`, which all came while another transaction was open."""
    with ThreadPoolExecutor(len(works)) as pool, store.transaction():
        done = [pool.submit(work) for work in works]
        eventually(lambda: len(store._writers._arrived) == len(works))
    return done


def renamed(job: Job, reason: str) -> Callable[[Transaction], str]:
    def work(tx: Transaction) -> str:
        tx.save_job(replace(tx.job(job.id), waiting_for=reason), lease_token=job.lease_token)
        return reason

    return work


def test_whatever_waits_for_a_writer_shares_one_commit_with_new_jobs(store: Store) -> None:
    made, new = add(store, *(new_job(NOW) for _ in range(5))), new_job(NOW)
    commits: list[object] = []
    sa.event.listen(store._engine, "commit", commits.append)
    works = [partial(store.together, renamed(job, f"reason {i}")) for i, job in enumerate(made)]
    done = at_once(store, *works, partial(store.add_job, new, PARAMS_TEXT))
    assert [future.result(10) for future in done] == [*(f"reason {i}" for i in range(5)), None]
    assert len(commits) == 2
    assert [store.job(job.id).waiting_for for job in [*made, new]] == [*(f"reason {i}" for i in range(5)), None]


def test_a_stale_write_undoes_nothing_of_those_that_share_its_commit(store: Store) -> None:
    first, second, stale = add(store, *(new_job(NOW) for _ in range(3)))

    def half(tx: Transaction) -> None:
        tx.save_job(replace(stale, waits=7))
        tx.save_job(stale, lease_token="an old one")

    works = [renamed(first, "a"), half, renamed(second, "b")]
    done = at_once(store, *(partial(store.together, work) for work in works))
    assert isinstance(done[1].exception(10), StaleLease)
    assert (done[0].result(10), done[2].result(10)) == ("a", "b")
    assert [store.job(job.id).waiting_for for job in (first, second)] == ["a", "b"]
    assert store.job(stale.id) == stale


def test_writes_that_share_commits_are_each_made_once(store: Store) -> None:
    (job,) = add(store, new_job(NOW))

    def one_more(tx: Transaction) -> int:
        fresh = tx.job(job.id)
        tx.save_job(replace(fresh, waits=fresh.waits + 1))
        return fresh.waits + 1

    answers = together(12, lambda _: [store.together(one_more) for _ in range(20)])
    assert sorted(count for counts in answers for count in counts) == list(range(1, 241))
    assert store.job(job.id).waits == 240


def test_a_write_that_times_out_is_never_made_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "BUSY_S", 0.1)
    made = [new_job(NOW) for _ in range(3)]
    with store.transaction():
        with ThreadPoolExecutor(3) as pool:
            done = [pool.submit(store.add_job, job, PARAMS_TEXT) for job in made]
        assert all(isinstance(future.exception(10), sa.exc.TimeoutError) for future in done)
    (later,) = add(store, new_job(NOW))
    assert store.jobs_by_id([job.id for job in [*made, later]]) == {later.id: later}
    store.add_job(made[0], PARAMS_TEXT)
    assert store.job(made[0].id) == made[0]

"""What every database must do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.db.records import ApiKey
from gateway.db.store import Store
from gateway.db.tables import jobs
from gateway.db.transaction import StaleLease
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import FINISHED, Job, JobStatus
from gateway.domain.webhooks import Webhook, WebhookState
from tests.gateway.conftest import PARAMS_TEXT, new_attempt, new_job, on_every_database, together
from tests.gateway.db.support import NOW, add

pytestmark = on_every_database

UNTIL = NOW + 60_000


def due_jobs(store: Store, now: int = NOW, limit: int = 100) -> list[str]:
    return [job_id for untried in (True, False) for job_id, _ in store.due(now, limit, untried=untried)]


def lease(store: Store, token: str, now: int = NOW, until: int = UNTIL, limit: int = 100) -> list[Job]:
    due = due_jobs(store, now, limit)
    with store.transaction() as tx:
        return tx.lease(due, token, now, until)


def test_a_job_comes_back_as_it_was_stored(store: Store) -> None:
    job = new_job(NOW, stats={"fps": 25}, waiting_for="x")
    params = '{"url_video": "é", "n": 1.5, "deep": [1, null]}'
    store.add_job(job, params)
    assert (store.job(job.id), store.params(job.id)) == (job, params)


def test_only_what_has_changed_is_written(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    written: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *call: written.append(call[2]))
    with store.transaction() as tx:
        fresh = tx.job(job.id)
        tx.save_job(fresh)
        tx.save_job(replace(fresh, progress=0.5))
        tx.save_job(replace(fresh, progress=0.5))
    (update,) = [statement for statement in written if statement.startswith("UPDATE")]
    assert re.findall(r"(\w+)=", update.partition("WHERE")[0]) == ["progress"]
    assert store.job(job.id) == replace(job, progress=0.5)


def test_a_job_without_stats_has_none(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    with store._engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT stats IS NULL FROM jobs"))
    assert store.job(job.id) == job


def test_an_attempt_comes_back_as_it_was_stored(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    attempt = new_attempt(job, NOW, AttemptState.CLAIMED, error_message="é")
    store.together(lambda tx: tx.add_attempt(attempt))
    assert store.attempt(attempt.id) == attempt


def test_any_text_from_elsewhere_can_be_stored(store: Store) -> None:
    job = new_job(NOW, waiting_for="a\0b")
    store.add_job(job, json.dumps({"text": "a\0b"}))
    attempt = new_attempt(job, NOW, error_message="a\0b")
    with store.transaction() as tx:
        tx.add_attempt(attempt)
        tx.save_attempt(attempt)
    assert store.attempt(attempt.id).error_message == store.job(job.id).waiting_for == "ab"
    assert json.loads(store.params(job.id)) == {"text": "a\0b"}


def test_unknown_ids_are_none(store: Store) -> None:
    assert store.job("job_x") is None
    assert store.attempt("att_x") is None
    assert store.lease_expires_at("x") is None
    assert store.next_due_at() is None


def test_attempts_are_listed_oldest_first(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    made = [new_attempt(job, NOW + i) for i in range(4)]
    with store.transaction() as tx:
        for attempt in reversed(made):
            tx.add_attempt(attempt)
    assert store.attempts(job.id) == made


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    job = new_job(NOW)
    with pytest.raises(RuntimeError), store.transaction() as tx:
        tx.add_job(job, PARAMS_TEXT)
        raise RuntimeError
    assert store.job(job.id) is None
    add(store, job)  # and the lock is free again


def test_an_attempt_needs_its_job(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction() as tx:
        tx.add_attempt(new_attempt(new_job(NOW), NOW))


# Leases


def test_only_due_and_free_jobs_are_due(store: Store) -> None:
    due = new_job(NOW)
    expired = new_job(NOW, lease_token="old", lease_expires_at=NOW)
    add(
        store,
        due,
        expired,
        new_job(NOW, next_at=NOW + 1),
        new_job(NOW, next_at=None),
        new_job(NOW, lease_token="t", lease_expires_at=NOW + 1),
    )
    assert due_jobs(store) == [due.id, expired.id]
    assert due_jobs(store, limit=1) == [due.id]


def test_a_leased_job_is_not_leased_again_before_it_expires(store: Store) -> None:
    add(store, new_job(NOW))
    assert len(lease(store, "one")) == 1
    assert lease(store, "two", now=UNTIL - 1) == []
    assert len(lease(store, "two", now=UNTIL, until=UNTIL + 1)) == 1


def test_a_job_taken_between_look_and_lease_is_left_out(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    due = due_jobs(store)
    lease(store, "quick")
    with store.transaction() as tx:
        assert tx.lease(due, "slow", NOW, UNTIL) == []
    assert store.job(job.id).lease_token == "quick"


def test_a_stale_write_is_refused(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    lease(store, "one")
    lease(store, "two", now=UNTIL)
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.save_job(replace(job, progress=0.5), lease_token="one")
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.leased_job(job.id, "one")
    assert store.job(job.id).progress == 0.0


def test_an_attempt_begins_only_under_its_jobs_lease(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    early, late = new_attempt(job, NOW), new_attempt(job, NOW)
    lease(store, "one")
    with store.transaction() as tx:
        tx.begin_attempt(early, "one")
    lease(store, "two", now=UNTIL)
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.begin_attempt(late, "one")
    assert store.job(job.id).attempt_id == early.id
    assert store.attempts(job.id) == [early]


def test_no_attempt_begins_for_a_job_that_was_cancelled_since_its_lease(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    lease(store, "one")
    with store.transaction() as tx:
        tx.save_job(replace(tx.job(job.id), status=JobStatus.CANCELLED, finished_at=NOW))
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.begin_attempt(new_attempt(job, NOW), "one")
    assert store.attempts(job.id) == []


def test_a_stale_write_undoes_its_whole_transaction(store: Store) -> None:
    (job,) = add(store, new_job(NOW))
    attempt = new_attempt(job, NOW)
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.add_attempt(attempt)
        tx.save_job(job, lease_token="never held")
    assert store.attempt(attempt.id) is None


def test_a_write_to_a_job_that_is_gone_is_noticed(store: Store) -> None:
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.save_job(new_job(NOW))


@pytest.mark.parametrize("kind", ["jobs", "webhooks"])
def test_of_many_dispatchers_each_leases_others(opened: Callable[[], Store], kind: str) -> None:
    stores = [opened() for _ in range(4)]
    made = (
        owe(stores[0], *map(str, range(40)))
        if kind == "webhooks"
        else add(stores[0], *(new_job(NOW) for _ in range(40)))
    )

    def take(number: int) -> list[str]:
        taken: list[str] = []
        if kind == "jobs":
            while jobs := lease(stores[number], f"token-{number}", limit=8):
                taken += [job.id for job in jobs]
        while webhooks := lease_webhooks(stores[number], f"token-{number}", now=NOW + 99, limit=8):
            taken += [webhook.job_id for webhook in webhooks]
        return taken

    assert sorted(id_ for ids in together(4, take) for id_ in ids) == sorted(job.id for job in made)


def test_next_due_is_the_earliest_job_or_the_end_of_its_lease(store: Store) -> None:
    add(store, new_job(NOW, next_at=NOW + 9), new_job(NOW, next_at=NOW + 4), new_job(NOW, next_at=None))
    assert store.next_due_at() == NOW + 4
    lease(store, "one", now=NOW + 9)
    assert store.next_due_at() == UNTIL


def test_of_the_key_with_the_fewest_running_jobs_the_oldest_is_woken(store: Store) -> None:
    busy = [new_job(NOW - 9 + i, key_id="busy", waits=1, next_at=NOW + 9_000) for i in range(3)]
    quiet = [new_job(NOW + i, key_id="quiet", waits=1, next_at=NOW + 9_000) for i in range(2)]
    add(store, *busy, *quiet, new_job(NOW - 20, key_id="busy", status=JobStatus.RUNNING))
    store.together(lambda tx: tx.wake_next_waiting(NOW))
    assert [store.job(job.id).next_at == NOW for job in (*busy, *quiet)] == [False, False, False, True, False]


def test_keys_take_turns_at_a_worker(store: Store) -> None:
    """With one worker no key has a running job when it becomes free, and one key's backlog is older than all others."""
    keys = ["a", "a", "a", "a", "b", "b", "c"]
    add(store, *(new_job(NOW + i, key_id=key, waits=1, next_at=NOW + 9_000) for i, key in enumerate(keys)))
    turns, last = [], "a"
    for now in range(NOW, NOW + len(keys)):
        store.together(lambda tx, now=now, last=last: tx.wake_next_waiting(now, last))
        ((woken, last),) = store.pairs(sa.select(jobs.c.id, jobs.c.key_id).where(jobs.c.next_at == now))
        ended = replace(store.job(woken), status=JobStatus.COMPLETED, finished_at=now, next_at=None)
        store.together(lambda tx, ended=ended: tx.save_job(ended))
        turns.append(last)
    assert turns == ["b", "c", "a", "b", "a", "a", "a"]


def test_the_job_that_has_waited_longest_is_woken(store: Store) -> None:
    oldest = new_job(NOW, waits=2, next_at=NOW + 9_000)
    others = [
        new_job(NOW - 2, waits=0, next_at=NOW + 9_000),  # waits for its retry, not for a worker
        new_job(NOW - 1, waits=2, next_at=NOW + 9_000, status=JobStatus.RUNNING),
        new_job(NOW - 1, waits=2, next_at=NOW + 9_000, lease_token="t", lease_expires_at=NOW + 9_000),  # is being tried
        new_job(NOW + 1, waits=5, next_at=NOW + 9_000),
    ]
    add(store, *others, oldest)
    store.together(lambda tx: tx.wake_next_waiting(NOW))
    assert store.job(oldest.id).next_at == NOW
    assert [store.job(job.id) for job in others] == others


@pytest.mark.parametrize(
    ("holder", "after_ms", "gets_it"),
    [("a", 10, True), ("b", 0, False), ("b", 14_999, False), ("b", 15_000, True)],
)
def test_a_named_lease_is_held_renewed_and_expires(store: Store, holder: str, after_ms: int, gets_it: bool) -> None:
    now = NOW + after_ms
    with store.transaction() as tx:
        assert tx.hold("reconcile", "a", NOW, NOW + 15_000)
        assert tx.hold("another", "b", NOW, NOW + 15_000)
        assert tx.hold("reconcile", holder, now, now + 15_000) is gets_it
    assert store.lease_expires_at("reconcile") == (now if gets_it else NOW) + 15_000


def test_one_of_many_holds_a_named_lease(opened: Callable[[], Store]) -> None:
    stores = [opened() for _ in range(6)]

    def hold(number: int) -> bool:
        with stores[number].transaction() as tx:
            return tx.hold("reconcile", f"holder-{number}", NOW, UNTIL)

    assert sum(map(bool, together(6, hold))) == 1


# Webhooks


def owe(store: Store, *paths: str, host: str = "example.com") -> list[Job]:
    """Jobs that have just ended with a webhook, the first one due first."""
    owing = [new_job(NOW + i, webhook_url=f"https://{host}/{path}") for i, path in enumerate(paths)]
    add(store, *owing)
    with store.transaction() as tx:
        for job in owing:
            tx.save_job(replace(job, status=JobStatus.CANCELLED, finished_at=job.created_at))
    return owing


def lease_webhooks(store: Store, token: str, now: int = NOW, until: int = UNTIL, limit: int = 100) -> list[Webhook]:
    chosen = [job_id for job_id, *_ in store.due_webhooks(now, limit)]
    with store.transaction() as tx:
        return tx.lease_webhooks(chosen, token, now, until)


@pytest.mark.parametrize("status", list(JobStatus))
def test_the_end_of_a_job_with_a_url_makes_its_webhook(store: Store, status: JobStatus) -> None:
    with_url, without = add(store, new_job(NOW, webhook_url="https://u:p@Example.com/x?y"), new_job(NOW))
    with store.transaction() as tx:
        for job in (with_url, without):
            tx.save_job(replace(job, status=status, finished_at=NOW + 5))
    made = Webhook(with_url.id, with_url.key_id, "example.com:https", WebhookState.PENDING, next_at=NOW + 5)
    assert store.webhooks([with_url.id, without.id]) == ({with_url.id: made} if status in FINISHED else {})


def test_saving_an_ended_job_again_leaves_its_webhook_alone(store: Store) -> None:
    (job,) = owe(store, "a")
    sent = replace(store.webhooks([job.id])[job.id], state=WebhookState.SUCCEEDED, tries=1, next_at=None)
    store.together(lambda tx: tx.save_webhook(sent))
    store.together(lambda tx: tx.save_job(replace(job, status=JobStatus.CANCELLED, finished_at=NOW, next_at=NOW + 1)))
    assert store.webhooks([job.id]) == {job.id: sent}


def test_a_webhook_goes_with_its_job(store: Store) -> None:
    owe(store, "a")
    with store.transaction() as tx:
        connection = tx.connection
        connection.execute(sa.text("DELETE FROM jobs"))
        assert connection.scalar(sa.text("SELECT count(*) FROM webhooks")) == 0


def test_due_webhooks_come_oldest_first_and_not_of_keys_or_hosts_that_are_busy(store: Store) -> None:
    one, two = owe(store, "a", "b")
    (other,) = owe(store, "c", host="other.example:81")
    later = NOW + 9
    assert store.due_webhooks(NOW - 1, 9) == []
    assert [job_id for job_id, *_ in store.due_webhooks(later, 9, not_hosts=["other.example:81"])] == [one.id, two.id]
    assert store.due_webhooks(later, 9, not_hosts=["example.com:https"]) == [
        (other.id, other.key_id, "other.example:81")
    ]
    assert store.due_webhooks(later, 9, not_keys=[one.key_id, two.key_id, other.key_id]) == []
    assert len(store.due_webhooks(later, 2)) == 2


def test_a_leased_webhook_is_leased_again_only_after_its_lease(store: Store) -> None:
    owe(store, "a")
    (first,) = lease_webhooks(store, "one")
    assert (first.lease_token, first.lease_expires_at) == ("one", UNTIL)
    assert lease_webhooks(store, "two", now=UNTIL - 1) == []
    (second,) = lease_webhooks(store, "two", now=UNTIL, until=UNTIL + 1)
    with pytest.raises(StaleLease), store.transaction() as tx:
        tx.save_webhook(replace(first, tries=1), lease_token="one")
    store.together(lambda tx: tx.save_webhook(replace(second, tries=1, lease_token=None), lease_token="two"))
    assert store.webhooks([first.job_id])[first.job_id].tries == 1


# Lists, records, keys


def test_paging_is_complete_without_duplicates_while_jobs_arrive(store: Store) -> None:
    old = add(store, *(new_job(NOW + i // 3, key_id="key_a") for i in range(25)))
    add(store, new_job(NOW, key_id="key_b"))
    seen: list[str] = []
    before = None
    while page := store.list_jobs("key_a", before=before, limit=4):
        seen += [job.id for job in page]
        before = page[-1].id
        add(store, new_job(NOW + 1_000 + len(seen), key_id="key_a"))
    assert seen == [job.id for job in reversed(old)]


def test_lists_are_of_one_key_and_filtered(store: Store) -> None:
    add(store, new_job(NOW, key_id="key_b"))
    caption, running = add(
        store, new_job(NOW, key_id="key_a"), new_job(NOW, key_id="key_a", operation="img2vid", status=JobStatus.RUNNING)
    )
    assert store.list_jobs("key_a", status="running", limit=9) == [running]
    assert store.list_jobs("key_a", operation="caption", limit=9) == [caption]
    assert store.list_jobs("key_a", status="running", operation="caption", limit=9) == []


def test_figures_of_unfinished_jobs_are_by_status(store: Store) -> None:
    assert (store.unfinished(NOW, 0).by_status, store.unfinished(NOW, 0).oldest_at) == ({}, None)
    week_s = 7 * 24 * 3600
    add(
        store,
        new_job(NOW, queue_limit_s=week_s, timeout_s=week_s),
        new_job(NOW - 5, status=JobStatus.RUNNING),
        new_job(NOW - 9, status=JobStatus.FAILED),
    )
    found = store.unfinished(NOW + week_s * 1000, 60_000)
    assert (found.by_status, found.oldest_at, found.past_limits) == ({"queued": 1, "running": 1}, NOW - 5, 1)


def claim(store: Store, key_id: str, key: str, fingerprint: str, job_id: str, *, now: int, after: int) -> object:
    with store.transaction() as tx:
        return tx.claim_idempotency_key(key_id, key, fingerprint, job_id, now=now, after=after)


def test_an_idempotency_key_is_the_first_ones_until_it_is_too_old(store: Store) -> None:
    first = ("print", "job_1")
    assert claim(store, "key_a", "k", *first, now=NOW, after=NOW - 1) == first
    assert claim(store, "key_a", "k", "other", "job_2", now=NOW + 1, after=NOW - 1) == first
    assert claim(store, "key_b", "k", "other", "job_3", now=NOW, after=NOW - 1) == ("other", "job_3")
    assert claim(store, "key_a", "K", "other", "job_4", now=NOW, after=NOW - 1) == ("other", "job_4")
    assert claim(store, "key_a", "k", "other", "job_5", now=NOW + 2, after=NOW) == ("other", "job_5")
    assert claim(store, "key_a", "k", *first, now=NOW + 3, after=NOW + 1) == ("other", "job_5")


def test_an_idempotency_key_is_claimed_before_it_is_looked_for(store: Store) -> None:
    """PostgreSQL does not queue transactions: what was not there when one looked may be there when it inserts."""
    statements: list[str] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *args: statements.append(args[2].split()[0]))
    claim(store, "key_a", "k", "print", "job_1", now=NOW, after=NOW - 1)
    assert statements == ["INSERT", "SELECT"]


def api_key(**changes: object) -> ApiKey:
    return replace(ApiKey("key_1", "n", "cli", "rl_12345", "a" * 64, NOW), **changes)


# Finding and removing what is old


def ended(at: int, **changes: object) -> Job:
    return new_job(at, **{"status": JobStatus.FAILED, "next_at": None, "finished_at": at, **changes})


def delete_jobs(store: Store, until: int, limit: int = 100) -> int:
    with store.transaction() as tx:
        return tx.delete_jobs(until, limit)


def test_jobs_are_found_by_their_ids(store: Store) -> None:
    made = add(store, *(new_job(NOW) for _ in range(3)))
    assert store.jobs_by_id([made[0].id, made[2].id, "job_x"]) == {job.id: job for job in (made[0], made[2])}
    assert store.jobs_by_id([]) == {}


def test_only_jobs_that_ended_long_ago_are_deleted(store: Store) -> None:
    old, late = add(store, ended(NOW), ended(NOW, finished_at=NOW + 1))
    kept = [late, *add(store, ended(NOW, next_at=NOW), new_job(NOW), ended(NOW + 1))]
    store.together(lambda tx: tx.add_attempt(new_attempt(old, NOW, AttemptState.FAILED)))
    assert delete_jobs(store, NOW) == 1
    assert (store.job(old.id), store.attempts(old.id)) == (None, [])
    assert [store.job(job.id) for job in kept] == kept
    assert delete_jobs(store, NOW) == 0


def test_the_oldest_jobs_are_deleted_first_and_no_more_than_asked_for(store: Store) -> None:
    made = add(store, *(ended(NOW + i) for i in range(5)))
    assert [delete_jobs(store, NOW + 9, 2) for _ in range(4)] == [2, 2, 1, 0]
    made = add(store, *(ended(NOW + i) for i in range(3)))
    delete_jobs(store, NOW + 9, 2)
    assert [store.job(job.id) for job in made] == [None, None, made[2]]


def plans(store: Store, *work: Callable[[], object]) -> list[list[str]]:
    """How SQLite finds the rows of each statement that `work` executes."""
    if store._engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL chooses its plans by statistics")
    calls: list[tuple[str, object]] = []
    sa.event.listen(store._engine, "before_cursor_execute", lambda *call: calls.append((call[2], call[3])))
    for each in work:
        each()
    explained = [call for call in calls if call[0].startswith(("SELECT", "UPDATE", "DELETE"))]
    with store._engine.connect() as connection:
        return [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in explained
        ]


def test_a_backlog_is_never_read_whole(store: Store) -> None:
    untried, tried, waiting, hooks = plans(
        store,
        lambda: store.due(NOW, 5, untried=True),
        lambda: store.due(NOW, 5, untried=False),
        lambda: store.together(lambda tx: tx.wake_next_waiting(NOW)),
        lambda: store.due_webhooks(NOW, 5),
    )
    assert untried[0] == "SEARCH jobs USING INDEX jobs_untried (next_at<?)"
    assert tried[0] == "SEARCH jobs USING INDEX jobs_due (next_at<?)"
    assert "SEARCH jobs USING INDEX jobs_waiting (status=?)" in waiting
    assert "SEARCH jobs_1 USING COVERING INDEX jobs_by_status (key_id=? AND status=?)" in waiting
    assert hooks[0] == "SEARCH webhooks USING INDEX webhooks_due (next_at<?)"


def test_no_filter_of_a_list_reads_all_jobs_of_a_key(store: Store) -> None:
    by_status, by_operation, by_reference = plans(
        store,
        lambda: store.list_jobs("key", status="failed", before="job_z", limit=5),
        lambda: store.list_jobs("key", operation="caption", limit=5),
        lambda: store.list_jobs("key", reference="order-7", before="job_z", limit=5),
    )
    assert by_status == ["SEARCH jobs USING INDEX jobs_by_status (key_id=? AND status=? AND id<?)"]
    assert by_operation == ["SEARCH jobs USING INDEX jobs_by_operation (key_id=? AND operation=?)"]
    assert by_reference == ["SEARCH jobs USING INDEX jobs_by_reference (key_id=? AND reference=? AND id<?)"]


def test_neither_search_goes_through_all_jobs(store: Store) -> None:
    deleting, looking = plans(store, lambda: delete_jobs(store, NOW), lambda: list(store.unfinished_params("x")))
    assert "SEARCH jobs USING INDEX sqlite_autoindex_jobs_1 (id<?)" in deleting
    assert looking[0] == "SEARCH jobs USING INDEX jobs_due (next_at>?)"
    assert looking[1].startswith("SEARCH job_params USING INDEX")


def test_params_of_unfinished_jobs_are_found_by_their_content(store: Store) -> None:
    url = "https://example.com/files/uploads/key_1/01?signature=a_b%c"
    for job, named in ((new_job(NOW), url), (new_job(NOW), "é"), (ended(NOW), url)):
        store.add_job(job, json.dumps({"url": named}))
    (found,) = store.unfinished_params("uploads/")
    assert url in found
    assert list(store.unfinished_params("uploads_")) == list(store.unfinished_params("%"))[1:] == []


def test_old_idempotency_keys_are_found_and_deleted_unless_renewed(store: Store) -> None:
    for number, key in enumerate(["a", "b", "c"]):
        claim(store, "key_a", key, "f", "job_1", now=NOW + number, after=0)
    old = store.old_idempotency_keys(NOW + 1, 100)
    assert sorted(old) == [("key_a", "a"), ("key_a", "b")]
    assert len(store.old_idempotency_keys(NOW + 1, 1)) == 1
    claim(store, "key_a", "b", "f", "job_2", now=NOW + 5, after=NOW + 1)
    with store.transaction() as tx:
        assert tx.delete_idempotency_keys(old, NOW + 1) == 1
    assert sorted(store.old_idempotency_keys(NOW + 9, 100)) == [("key_a", "b"), ("key_a", "c")]


def test_an_api_key_is_inserted_or_replaced_by_its_id(store: Store) -> None:
    for record in (api_key(), api_key(name="m", revoked_at=NOW)):
        with store.transaction() as tx:
            tx.put_api_key(record)
        assert store.api_keys() == [record]
        assert store.api_key_by_hash("a" * 64) == store.api_key("key_1") == record
    assert store.api_key("key_2") is None


def test_two_api_keys_never_share_a_secret(store: Store) -> None:
    with pytest.raises(IntegrityError), store.transaction() as tx:
        tx.put_api_key(api_key())
        tx.put_api_key(api_key(id="key_2"))


# Transactions


def test_a_reader_does_not_wait_for_a_writer(opened: Callable[[], Store]) -> None:
    one, two = opened(), opened()
    (job,) = add(one, new_job(NOW))
    with one.transaction() as tx:
        tx.save_job(replace(job, progress=0.5))
        with ThreadPoolExecutor(2) as pool:  # would time out behind the writer
            seen = [pool.submit(reader.job, job.id).result(timeout=30) for reader in (one, two)]
    assert seen == [job, job]
    assert two.job(job.id).progress == 0.5


def test_read_then_write_never_finds_the_database_locked(opened: Callable[[], Store]) -> None:
    stores = [opened(), opened()]  # as two processes have it: each with a lock of its own
    (job,) = add(stores[0], new_job(NOW))

    def count_up(number: int) -> None:
        for _ in range(15):
            with stores[number % 2].transaction() as tx:
                now = tx.job(job.id)
                tx.save_job(replace(now, waits=now.waits + 1))

    together(8, count_up)
    assert stores[0].job(job.id).waits == 8 * 15

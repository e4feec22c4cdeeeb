"""What is removed and what is kept, after failures too, and without delaying other writers."""

from __future__ import annotations

import json
import sqlite3
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gateway.db import rental_store
from gateway.db.transaction import Transaction
from gateway.domain import ids
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.rentals import OVER, Rental, Stage
from gateway.storage import StorageUnavailable
from gateway.upkeep import janitor
from gateway.upkeep.janitor import ROUND_MS, Janitor
from tests.gateway.conftest import (
    BODY,
    PARAMS_TEXT,
    REQUEST,
    FixedClock,
    Gateway,
    Wire,
    new_attempt,
    new_job,
    on_every_database,
)
from tests.outputs import stored_video, video_key

DAY_MS = 24 * 3600 * 1000
HOUR_MS = 3600 * 1000
GOING_ON = threading.Event()


def clean(services: Gateway) -> None:
    """One whole round."""
    cleaner = cleaner_of(services)
    while cleaner._ended_at is None:
        cleaner.step(GOING_ON)


def keys(services: Gateway) -> set[str]:
    return set(services.storage.keys())


def count(services: Gateway, table: str) -> int:
    with services.store._engine.connect() as connection:
        return connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}")) or 0


def cleaner_of(services: Gateway) -> Janitor:
    return Janitor(services.store, services.storage, services.clock, services.settings)


def completed(services: Gateway, **changes: Any) -> Job:
    """A job that has just completed, with its output in the storage."""
    now = services.clock.now_ms()
    over = {"status": JobStatus.COMPLETED, "next_at": None, "started_at": now, "finished_at": now}
    job = services.add_job(attempt=AttemptState.DONE, **{**over, **changes})
    services.put_output(job.attempt_id)
    job = replace(job, outputs=stored_video(services.attempt(job), len(BODY)))
    services.store.together(lambda tx: tx.save_job(job))
    return job


# Outputs


def test_an_output_is_kept_for_seven_days_after_the_end_of_its_job(services: Gateway) -> None:
    services.clock.advance(-DAY_MS)
    job = completed(services, finished_at=services.clock.now_ms() + DAY_MS)
    services.clock.advance(8 * DAY_MS - 1)
    clean(services)
    assert keys(services) == {job.outputs["video"].key}
    services.clock.advance(1)
    clean(services)
    assert keys(services) == set()
    assert services.store.job(job.id) == job
    assert not (services.settings.files_dir / "outputs" / job.id).exists()


@pytest.mark.parametrize(
    "state", [AttemptState.INTENT, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.AMBIGUOUS]
)
@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_an_upload_of_the_newest_attempt_is_kept_until_it_is_reported(
    services: Gateway, status: JobStatus, state: AttemptState
) -> None:
    job = services.add_job(attempt=state, status=status)
    services.put_output(job.attempt_id)
    services.clock.advance(20 * DAY_MS)
    clean(services)
    assert keys(services) == {video_key(services.attempt(job))}


@pytest.mark.parametrize("status", list(JobStatus))
@pytest.mark.parametrize("state", [AttemptState.SUPERSEDED, AttemptState.FAILED])
def test_the_output_of_an_older_attempt_is_removed_at_once(
    services: Gateway, status: JobStatus, state: AttemptState
) -> None:
    job = completed(services, status=status)
    older = new_attempt(job, services.clock.now_ms() - 1, state)
    services.store.together(lambda tx: tx.add_attempt(older))
    services.storage.write(video_key(older), [b"late"], 4)
    clean(services)
    wanted = {job.outputs["video"].key} if status not in {JobStatus.FAILED, JobStatus.CANCELLED} else set()
    assert keys(services) == wanted


def test_files_without_a_job_are_kept_as_long_as_outputs(services: Gateway) -> None:
    """The database may have been restored from a backup, or be the wrong one."""
    job = new_job(services.clock.now_ms())
    key = video_key(new_attempt(job, services.clock.now_ms()))
    services.storage.write(key, [b"video"], 5)
    services.clock.advance(7 * DAY_MS - 1)
    clean(services)
    assert keys(services) == {key}
    services.clock.advance(1)
    clean(services)
    assert keys(services) == set()


# Uploads


def upload(services: Gateway, key_id: str) -> str:
    key = f"uploads/{key_id}/{ids.ulid(services.clock.now_ms())}"
    services.storage.write(key, [b"asset"], 5)
    return key


def test_an_upload_is_kept_for_a_day(services: Gateway) -> None:
    first = upload(services, ids.new("key", 0))
    services.clock.advance(DAY_MS - 1)
    second = upload(services, ids.new("key", 0))
    clean(services)
    assert keys(services) == {first, second}
    services.clock.advance(1)
    clean(services)
    assert keys(services) == {second}


@pytest.mark.parametrize("attempt", [None, AttemptState.SUBMITTED, AttemptState.CLAIMED, AttemptState.FAILED])
def test_an_upload_stays_while_a_job_needs_it(services: Gateway, attempt: AttemptState | None) -> None:
    key_id = ids.new("key", 0)
    needed, _ = upload(services, key_id), upload(services, key_id)
    url = services.storage.presign_get(needed, expires_at=services.clock.now_ms() + 9 * DAY_MS, for_worker=True)
    params = {"url_video": url, "url_srt": "https://example.com/uploads/s.srt"}
    job = services.add_job(key_id=key_id, params=params, attempt=attempt, queue_limit_s=9 * DAY_MS)
    services.clock.advance(2 * DAY_MS)
    clean(services)
    assert keys(services) == {needed}
    services.jobs.cancel(job.id, key_id)
    services.turn()
    clean(services)
    assert keys(services) == set()


# Rows


def test_a_job_is_kept_for_thirty_days_and_removed_with_its_attempts(services: Gateway) -> None:
    job, waiting = (
        completed(services),
        completed(services, status=JobStatus.QUEUED, next_at=services.clock.now_ms(), finished_at=None),
    )
    ending = completed(services, status=JobStatus.CANCELLED, next_at=services.clock.now_ms())
    services.clock.advance(30 * DAY_MS - 1)
    clean(services)
    assert services.store.job(job.id) == job
    services.clock.advance(1)
    clean(services)
    assert services.store.job(job.id) is None
    assert services.store.attempts(job.id) == []
    assert [services.store.job(kept.id) for kept in (waiting, ending)] == [waiting, ending]


def test_a_rental_is_kept_for_thirty_days_after_its_end(services: Gateway) -> None:
    def rental(stage: Stage) -> Rental:
        now = services.clock.now_ms()
        ended_at = now if stage in OVER else None
        return Rental(ids.new("rent", now), "vast", stage, "label", now, now, now, ended_at=ended_at)

    rentals = {stage: rental(stage) for stage in Stage}
    with services.store.transaction() as tx:
        for each in rentals.values():
            rental_store.insert(tx, each)
    services.clock.advance(30 * DAY_MS - 1)
    clean(services)
    assert count(services, "rentals") == len(Stage)
    services.clock.advance(1)
    clean(services)
    rows = rental_store.Rentals(services.store, "vast")
    assert {each.stage for each in rows.living()} == set(Stage) - OVER, "rentals that have not ended are kept"
    assert count(services, "rentals") == len(Stage) - len(OVER)


def test_a_rental_of_today_is_kept_however_short_jobs_are(wire: Wire, clock: FixedClock) -> None:
    services, now = wire(job_retention_seconds=60), clock.now_ms()
    with services.store.transaction() as tx:
        rental_store.insert(tx, Rental(ids.new("rent", now), "vast", Stage.GONE, "label", now, now, now, ended_at=now))
    clock.advance(DAY_MS)
    clean(services)
    assert count(services, "rentals") == 1, "the day's spending depends on it"


def test_an_avoided_machine_is_removed_when_its_time_is_up(services: Gateway) -> None:
    now = services.clock.now_ms()
    with services.store.transaction() as tx:
        for machine_id, until in ((1, now + 1000), (2, now + 1001)):
            rental_store.avoid(tx, "vast", machine_id, until, "it did not come up")
    services.clock.advance(1000)
    clean(services)
    assert rental_store.Rentals(services.store, "vast").avoided(services.clock.now_ms()) == {2}
    assert count(services, "avoided_machines") == 1


@on_every_database
def test_spending_is_kept_for_today_and_the_newest_day(services: Gateway) -> None:
    now = services.clock.now_ms()
    with services.store.transaction() as tx:
        for key_id, days in (("key_a", (0, 1, 2, 400)), ("key_b", (1, 2)), ("key_c", (-1, 0, 1))):
            for day in days:
                tx.spend(key_id, 1000 + day, now - day * DAY_MS)
    clean(services)
    assert count(services, "spending") == 1 + 1 + 2, "a later day exists after a clock was set back"
    assert [services.store.spent_today(key_id, now) for key_id in ("key_a", "key_b", "key_c")] == [1000, 0, 1000]
    assert services.store.usage("key_b", now).mean_nano == 1001


def test_the_settings_define_the_retention(services: Gateway, wire: Wire, clock: FixedClock) -> None:
    job = completed(services)
    hasty = wire(
        output_retention_seconds=60, upload_retention_seconds=60, idempotency_retention_seconds=60,
        job_retention_seconds=120,
    )  # fmt: skip
    upload(hasty, ids.new("key", 0))
    hasty.jobs.create("key_a", REQUEST, "old")
    clock.advance(60_000)
    renewed = hasty.jobs.create("key_a", REQUEST, "renewed")
    clean(hasty)
    assert (keys(hasty), count(hasty, "idempotency")) == (set(), 1)
    assert hasty.jobs.create("key_a", REQUEST, "renewed") == renewed
    assert hasty.store.job(job.id) == job
    clock.advance(60_000)
    clean(hasty)
    assert hasty.store.job(job.id) is None


def live_day(services: Gateway, clock: FixedClock, jobs: int) -> None:
    """A day's jobs, their attempts, outputs, uploads and idempotency records."""
    with services.store.transaction() as tx:
        for number in range(jobs):
            now = clock.advance(DAY_MS // jobs)
            params = {"url_video": "https://example.com/" + "v" * 300}
            job = new_job(now, status=JobStatus.COMPLETED, next_at=None, started_at=now, finished_at=now)
            attempts = [new_attempt(job, now - 1, AttemptState.FAILED), new_attempt(job, now, AttemptState.DONE)]
            job = replace(job, attempt_id=attempts[1].id, outputs=stored_video(attempts[1]))
            tx.add_job(job, json.dumps(params))
            for attempt in attempts:
                tx.add_attempt(attempt)
            tx.claim_idempotency_key("key_a", f"{job.id}", "f", job.id, now=now, after=now - DAY_MS)
            if number < 2:
                services.storage.write(video_key(attempts[number]), [b"video"], 5)
    upload(services, ids.new("key", 0))


@pytest.mark.slow
def test_over_months_nothing_grows(services: Gateway) -> None:
    sizes = []
    for _ in range(60):
        live_day(services, services.clock, 60)
        clean(services)
        with services.store._engine.connect() as connection:
            pages = connection.scalar(sa.text("PRAGMA page_count"))
        rows = [count(services, table) for table in ("jobs", "attempts", "idempotency", "leases", "api_keys")]
        sizes.append([*rows, len(list(services.settings.files_dir.rglob("*"))), pages])
    month, later = sizes[31], sizes[32:]
    assert month[:3] == [60 * 30, 2 * 60 * 30, 60]
    assert len(list(services.storage.keys())) == 7 + 1
    assert all(size[:-1] == month[:-1] for size in later)
    assert max(size[-1] for size in later) <= month[-1] * 1.02  # freed pages are used again


# Failures


@pytest.fixture
def expired(services: Gateway) -> Gateway:
    """A gateway with four expired rows and files of every kind."""
    for number in range(4):
        completed(services)
        upload(services, ids.new("key", 0))
        services.jobs.create("key_a", REQUEST, f"k{number}")
    with services.store.transaction() as tx:
        tx.connection.execute(sa.text("UPDATE jobs SET finished_at = created_at, next_at = NULL"))
    services.clock.advance(31 * DAY_MS)
    return services


def left(services: Gateway) -> tuple[int, int, int]:
    return count(services, "jobs"), count(services, "idempotency"), len(keys(services))


@pytest.mark.parametrize("pieces", range(14))
def test_the_next_round_completes_an_interrupted_one(
    expired: Gateway, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 2)
    broken_off = cleaner_of(expired)._clean_up()
    for _ in range(pieces):
        next(broken_off, None)
    clean(expired)
    assert left(expired) == (0, 0, 0)


def test_two_gateways_may_clean_up_at_once(expired: Gateway, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "BATCH", 2)
    rounds = [cleaner_of(each)._clean_up() for each in (expired, wire())]
    while rounds:
        rounds = [each for each in rounds if next(each, "over") is None]
    assert left(expired) == (0, 0, 0)


@pytest.mark.parametrize(
    "error", [PermissionError(1, "Operation not permitted"), StorageUnavailable("S3 returned 503")]
)
def test_a_file_that_cannot_be_removed_does_not_keep_others(
    expired: Gateway, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stuck, delete = sorted(keys(expired))[0], expired.storage.delete

    def refuse(key: str) -> None:
        if key == stuck:
            raise error
        delete(key)

    monkeypatch.setattr(expired.storage, "delete", refuse)
    clean(expired)
    assert left(expired) == (0, 0, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("store.together", (8, 4, 0)), ("store.jobs_by_id", (0, 0, 8)), ("storage.tidy", (0, 0, 0))],
)
def test_a_part_that_fails_does_not_stop_the_others(
    expired: Gateway, monkeypatch: pytest.MonkeyPatch, name: str, expected: object
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    with monkeypatch.context() as patch:
        part, method = name.split(".")
        patch.setattr(getattr(expired, part), method, fail)
        clean(expired)
    assert left(expired) == expected
    clean(expired)
    assert left(expired) == (0, 0, 0)


# Other writers


def test_a_step_ends_after_its_time_or_when_stopped_and_the_next_continues(
    expired: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 1)
    monkeypatch.setattr(janitor, "STEP_S", 0)
    stopped = threading.Event()
    stopped.set()
    cleaner = cleaner_of(expired)
    for step, expected in enumerate([7, 6, 5, 4], 1):
        cleaner.step(stopped if step % 2 else GOING_ON)
        assert left(expired)[2] == expected


def test_rounds_follow_quickly_while_the_disk_is_full(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    monkeypatch.setattr(services.storage, "keys", lambda: listed.append(services.clock.now_ms()) or iter(()))
    monkeypatch.setattr(services.store.reserve, "is_low", lambda: True)
    cleaner = cleaner_of(services)
    for after in (0, janitor.ROUND_OF_FULL_DISK_MS - 1, 1):
        services.clock.advance(after)
        cleaner.step(GOING_ON)
    assert len(listed) == 2


def test_there_is_a_pause_between_rounds(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    monkeypatch.setattr(services.storage, "keys", lambda: listed.append(services.clock.now_ms()) or iter(()))
    cleaner = cleaner_of(services)
    for after in (0, ROUND_MS - 1, 1, 1, -HOUR_MS):  # a clock that is set back causes at most one round
        services.clock.advance(after)
        cleaner.step(GOING_ON)
    assert len(listed) == 3


def test_other_writers_get_their_turn_between_batches(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    now, removed, written = services.clock.now_ms(), [], []
    with services.store.transaction() as tx:
        for _ in range(250):
            tx.add_job(new_job(now, status=JobStatus.FAILED, next_at=None, finished_at=now), PARAMS_TEXT)
    services.clock.advance(31 * DAY_MS)
    delete = Transaction.delete_jobs

    def counted(tx: Transaction, until: int, limit: int) -> int:
        removed.append(delete(tx, until, limit))
        return removed[-1]

    class Pause(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout == janitor.PAUSE_S
            written.append(services.jobs.create("key_a", REQUEST))
            return False

    monkeypatch.setattr(Transaction, "delete_jobs", counted)
    cleaner_of(services).step(Pause())
    assert removed == [100, 100, 50]
    assert len(written) > len(removed)


# Memory and disk

LARGE = 900_000


def large(services: Gateway, number: int) -> list[Job]:
    """Unfinished jobs with params of LARGE bytes each, which name an upload."""
    return [services.add_job(params={"text": "x" * LARGE, "url": "/files/uploads/key_1/1"}) for _ in range(number)]


def test_large_params_are_read_a_few_at_a_time(services: Gateway) -> None:
    large(services, 40)
    upload = f"uploads/{ids.new('key', 0)}/{ids.ulid(services.clock.now_ms())}"
    services.storage.write(upload, [BODY], len(BODY))
    services.clock.advance(30 * DAY_MS)
    with peak_of() as peak:
        clean(services)
    assert upload not in keys(services)
    assert peak() < 25 * LARGE


@on_every_database
def test_the_params_of_an_ended_job_are_dropped_and_their_space_given_back(services: Gateway) -> None:
    jobs = large(services, 20)
    for job in jobs:
        services.jobs.cancel(job.id, job.key_id)
    assert count(services, "job_params") == 0
    if services.store._engine.dialect.name == "sqlite":
        clean(services)
        path = Path(services.store._engine.url.database or "")
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA freelist_count").fetchone() == (0,)
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < LARGE


@contextmanager
def peak_of() -> Iterator[Callable[[], int]]:
    """The most bytes that Python allocates at once inside the block."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

"""The space that is kept for ending jobs and cleaning up, on a small disk that is filled for real."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gateway import storage
from gateway.__main__ import prepare
from gateway.db.engine import make_engine
from gateway.db.group_commit import _each, _Write
from gateway.db.migrations import migrate
from gateway.db.reserve import Reserve
from gateway.db.store import Store
from gateway.db.transaction import Transaction, insert_jobs
from gateway.domain import ids
from gateway.domain.attempts import AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.errors import StorageLow
from gateway.settings import Settings
from gateway.storage import StorageFullError, kept_free
from gateway.upkeep.janitor import ROUND_MS
from tests.gateway.conftest import REQUEST, START_MS, Gateway, Wire, new_job, on_every_database
from tests.gateway.upkeep.test_janitor import clean, completed
from tests.outputs import video_key
from tests.small_disk import fill, small_disk
from wire.errors import AssetNotFound

DISK_BYTES = 32 * 1024 * 1024
KEPT = DISK_BYTES // 4
LARGE = 200_000
DAY_MS = 24 * 3600 * 1000


@pytest.fixture(autouse=True)
def as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_KEPT_BYTES", 16_000_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", f"{DISK_BYTES}"):
        yield tmp_path / "small"


@pytest.fixture
def small(disk: Path, wire: Wire, settings: Settings) -> Gateway:
    """A gateway on the small disk; its reserve is there."""
    on_disk = {"data_dir": disk, "database_url": None, "min_free_disk_percent": 0}
    migrate(replace(settings, **on_disk))
    (disk / "files").mkdir()
    services = wire(**on_disk)
    services.store.reserve.restore()
    return services


def add_job(services: Gateway, key_id: str = "key_a") -> Job:
    return services.jobs.create(key_id, replace(REQUEST, params=json.dumps({"subtitles": "x" * LARGE})))


def fill_with_jobs(services: Gateway) -> list[Job]:
    made: list[Job] = []
    with pytest.raises((StorageLow, OperationalError)):
        while True:
            made.append(add_job(services))
    return made


def upload(services: Gateway) -> str:
    key = f"uploads/{ids.new('key', 0)}/{ids.ulid(services.clock.now_ms())}"
    with services.upload_quota.counted(key, LARGE):
        services.storage.write(key, [b"x" * LARGE], LARGE)
    return key


@pytest.fixture
def reader(small: Gateway, disk: Path) -> Iterator[None]:
    """Another process that reads: SQLite's journal cannot be used again from its beginning, but must grow."""
    with closing(sqlite3.connect(disk / "reelay.db", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM jobs").fetchall()
        yield


def test_on_a_full_disk_every_job_can_be_cancelled(small: Gateway, disk: Path, reader: None) -> None:
    made = fill_with_jobs(small)
    assert len(made) > 20
    fill(disk)
    for job in made:
        assert small.jobs.cancel(job.id, "key_a").status is JobStatus.CANCELLED
        with pytest.raises(StorageLow):
            add_job(small, "key_b")
    assert not (disk / ".reserve").exists()


@pytest.mark.slow
def test_on_a_full_disk_the_dispatcher_ends_jobs(small: Gateway, disk: Path) -> None:
    """Those that are out of time, those whose worker reports, and those that fail at the provider."""
    made = fill_with_jobs(small)
    small.turn()
    fill(disk)
    reported = next(job for job in made if small.job(job).attempt_id)
    small.report(small.attempt(reported).id, "started")
    small.report(small.attempt(reported).id, "failed", error=AssetNotFound())
    assert small.job(reported).status is JobStatus.FAILED
    small.clock.advance(10 * 3_600_000)
    for _ in range(30):
        with suppress(OperationalError):  # logged, and done again later
            small.turn()
        small.clock.advance(61_000)
        fill(disk)
    assert {small.job(job).status for job in made} == {JobStatus.FAILED}


def test_the_clean_up_empties_a_full_disk(small: Gateway, disk: Path) -> None:
    """Of jobs, uploads and outputs; then new jobs are accepted, and the reserve is made again."""
    made = [add_job(small) for _ in range(30)]
    completed(small)
    for _ in range(20):
        upload(small)
    with pytest.raises(StorageFullError):
        while True:
            upload(small)
    filler = fill(disk)
    for job in made:
        small.jobs.cancel(job.id, "key_a")
    while small.turn():
        pass
    small.clock.advance(31 * DAY_MS)
    fill(disk)
    clean(small)
    assert list(small.storage.keys()) == []
    assert small.store.scalar(sa.text("SELECT (SELECT count(*) FROM jobs) + (SELECT count(*) FROM uploads)")) == 0
    filler.unlink()
    assert add_job(small)
    small.clock.advance(ROUND_MS)
    clean(small)
    assert (disk / ".reserve").stat().st_size == KEPT
    assert (disk / "reelay.db").stat().st_size < 1_000_000


@on_every_database
def test_on_a_full_disk_of_files_jobs_end_and_outputs_are_removed(disk: Path, wire: Wire, settings: Settings) -> None:
    """The database is on another disk or another machine."""
    services = wire(min_free_disk_percent=0)
    files = services.settings.files_dir
    with small_disk(files, f"{DISK_BYTES}"):
        done, running = completed(services), services.add_job(attempt=AttemptState.CLAIMED)
        filler = fill(files)
        with pytest.raises(StorageFullError):
            services.put_output(running.attempt_id)
        services.jobs.cancel(running.id, running.key_id)
        services.turn()
        services.clock.advance(8 * DAY_MS)
        clean(services)
        assert list(services.storage.keys()) == []
        assert services.job(done).status is JobStatus.COMPLETED
        filler.unlink()
        later = services.add_job(attempt=AttemptState.CLAIMED)
        services.put_output(later.attempt_id)
        assert list(services.storage.keys()) == [video_key(services.attempt(later))]


def test_files_leave_the_space_that_is_kept(small: Gateway, disk: Path) -> None:
    with pytest.raises(StorageFullError):
        while True:
            upload(small)
    usage = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
    assert DISK_BYTES - usage >= KEPT
    assert small.store.reserve.is_low() is False and (disk / ".reserve").exists()
    grows = (disk / "grows").open("wb", buffering=0)

    def body() -> Iterator[bytes]:
        yield b"x"
        grows.write(b"x" * (DISK_BYTES - usage - KEPT))
        yield b"x"

    with pytest.raises(StorageFullError):
        small.storage.write(f"uploads/{ids.new('key', 0)}/{ids.ulid(START_MS)}", body(), 2)
    grows.close()


def test_a_job_that_shares_its_commit_with_an_end_takes_nothing_of_the_reserve(
    small: Gateway, disk: Path, reader: None
) -> None:
    """Both were underway when the disk became full."""
    made = fill_with_jobs(small)
    fill(disk)
    small.store._writers._make_room = lambda error: (disk / ".reserve").unlink() is None

    def end(tx: Transaction) -> None:
        tx.forget_params(made[0].id)
        tx.save_job(replace(tx.job(made[0].id), status=JobStatus.CANCELLED, next_at=None, finished_at=START_MS))

    batch = [_Write(_each, end), _Write(insert_jobs, (new_job(START_MS), "x" * 5 * LARGE, None))]
    small.store._writers._carry_out(batch)
    assert batch[0].error is None and isinstance(batch[1].error, OperationalError)
    assert small.job(made[0]).status is JobStatus.CANCELLED


def test_the_reserve_is_a_small_share_of_the_disk() -> None:
    assert kept_free(DISK_BYTES) == KEPT
    assert kept_free(20 * 10**9) == kept_free(10**13) == 16_000_000


def test_the_reserve_is_made_when_there_is_room_and_completed_after_a_crash(disk: Path) -> None:
    reserve, path, filler = Reserve(disk), disk / ".reserve", disk / "filler"
    filler.write_bytes(b"x" * (DISK_BYTES - KEPT * 3 // 2))
    reserve.restore()
    assert not path.exists()
    filler.unlink()
    path.write_bytes(b"cut off")
    for _ in range(2):
        reserve.restore()
        assert path.stat().st_size == KEPT


def full_error(code: int = sqlite3.SQLITE_FULL) -> OperationalError:
    cause = sqlite3.OperationalError("database or disk is full")
    cause.sqlite_errorcode = code  # type: ignore[attr-defined]
    return OperationalError("COMMIT", {}, cause)


def test_the_reserve_is_given_up_on_a_full_disk_only(disk: Path) -> None:
    reserve, path = Reserve(disk), disk / ".reserve"
    reserve.restore()
    assert not reserve.give_up(full_error()), "there is room: the error has another cause"
    fill(disk)
    assert not reserve.give_up(full_error(sqlite3.SQLITE_BUSY)) and not reserve.give_up(ValueError())
    assert path.exists()
    assert reserve.give_up(full_error(sqlite3.SQLITE_IOERR_WRITE))
    assert not path.exists()
    assert reserve.give_up(full_error()), "another thread's error of the same moment"
    fill(disk)
    assert not reserve.give_up(full_error())


def test_a_reserve_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "none")
    reserve.restore()
    assert (reserve.is_low(), reserve.give_up(full_error())) == (False, False)
    assert (Reserve(None).is_low(), Reserve(None).give_up(full_error())) == (False, False)


def test_deleting_large_params_takes_little_of_the_journal(store: Store) -> None:
    jobs = [new_job(START_MS) for _ in range(10)]
    for job in jobs:
        store.add_job(job, "x" * 1_000_000)
    log = Path(f"{store._engine.url.database}-wal")
    with closing(sqlite3.connect(store._engine.url.database)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert log.stat().st_size == 0
    for job in jobs:
        store.together(lambda tx, job=job: tx.forget_params(job.id))  # type: ignore[misc]
    assert log.stat().st_size < 1_000_000


def test_a_gateway_starts_on_a_full_disk(small: Gateway, disk: Path) -> None:
    job = add_job(small)
    small.store._engine.dispose()
    fill(disk)
    prepare(small.settings)
    engine = make_engine(small.settings.database)
    store = Store(engine)
    assert store.job(job.id) == job
    engine.dispose()

"""SQLite's write-ahead log cut at any byte, as a disk may leave it: the database opens and loses no checkpointed job."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.db.engine import make_engine
from gateway.db.migrations import migrate
from gateway.db.store import Store
from gateway.domain.jobs import Job
from gateway.settings import Settings
from tests.gateway.api.live import live
from tests.gateway.conftest import PARAMS_TEXT, SECRET_KEY, START_MS, new_job

HEADER, FRAME = 32, 24 + 4096
JOBS = 12


def add(store: Store, count: int) -> list[Job]:
    """Add jobs, each in a commit of its own."""
    made = [new_job(START_MS + number) for number in range(count)]
    for job in made:
        store.add_job(job, PARAMS_TEXT)
    return made


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Job], list[Job]]:
    """The files of a gateway that was killed; the jobs that were checkpointed, and those only in the log, in order."""
    folder, copy = tmp_path_factory.mktemp("running"), tmp_path_factory.mktemp("killed")
    settings = Settings(providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder)
    migrate(settings)
    engine = make_engine(settings.database, pool_size=2)
    store = Store(engine)
    kept = add(store, JOBS)
    with closing(sqlite3.connect(folder / "reelay.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        later = add(store, JOBS)
        for path in folder.glob("reelay.db*"):
            shutil.copy(path, copy / path.name)
    engine.dispose()
    return copy, kept, later


def offsets(size: int) -> list[int]:
    """The edges of header and frames, one byte around them, and forty more places."""
    frames = range(HEADER, size + 1, FRAME)
    near = [at + by for at in (0, HEADER - 8, *frames[:3], *frames[-2:], size) for by in (-1, 0, 1, 24)]
    return sorted({at for at in [*near, *random.Random(1).sample(range(size), 40)] if 0 <= at <= size})


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["killed process", "lost power"])
def test_a_log_that_was_cut_anywhere_loses_no_checkpointed_job(
    killed: tuple[Path, list[Job], list[Job]], tmp_path: Path, shared: bool
) -> None:
    """`shared`: the log's index in shared memory is still there, and does not fit the log."""
    source, kept, later = killed
    log = (source / "reelay.db-wal").read_bytes()
    assert len(log) > JOBS * FRAME
    numbers = []
    for at in offsets(len(log)):
        folder = tmp_path / str(at)
        shutil.copytree(source, folder)
        (folder / "reelay.db-wal").write_bytes(log[:at])
        if not shared:
            (folder / "reelay.db-shm").unlink()
        migrate(Settings(providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder))
        engine = make_engine(f"sqlite:///{folder / 'reelay.db'}", pool_size=2)
        store = Store(engine)
        found = store.jobs_by_id([job.id for job in [*kept, *later]])
        assert set(found) >= {job.id for job in kept}, f"cut at {at}"
        numbers.append(len(found) - len(kept))
        assert set(found) == {job.id for job in [*kept, *later[: numbers[-1]]]}, "later commits go first"
        (added,) = add(store, 1)
        assert store.job(added.id) == added and store.params(added.id) == PARAMS_TEXT
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        engine.dispose()
        shutil.rmtree(folder)
    assert numbers == sorted(numbers) and (numbers[0], numbers[-1]) == (0, JOBS)
    assert len(set(numbers)) > JOBS // 2


@pytest.mark.slow
def test_a_gateway_starts_on_a_log_that_was_cut(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    with live(before, RUN_DISPATCHER="false") as server:
        kept = add(server.services.store, JOBS)
        with closing(sqlite3.connect(before / "reelay.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        add(server.services.store, JOBS)
        key = server.services.keys.list()[0].id
        server._process.kill()
        server._process.wait()
        shutil.copytree(before, after)
    log = after / "reelay.db-wal"
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.truncate(size - size // 3 - 7)
    with live(after, RUN_DISPATCHER="false") as server:
        assert set(server.services.store.jobs_by_id([job.id for job in kept])) == {job.id for job in kept}
        assert server.services.keys.list()[0].id == key
        body = {"url_video": "https://example.com/v.mp4", "url_srt": "https://example.com/s.srt"}
        made = server.call("POST", "/video/caption", json=body)
        assert made.status_code == 202
        assert server.call("GET", f"/jobs/{made.json()['jobId']}").ok

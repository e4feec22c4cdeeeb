"""`flask --app gateway backup`: a copy that can be restored, made while the gateway writes."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from flask import Flask

from gateway.db.engine import make_engine
from gateway.db.store import Store
from tests.gateway.conftest import Gateway, Wire
from tests.gateway.test_cli import run


def test_a_copy_made_during_writes_can_be_restored(app: Flask, services: Gateway, tmp_path: Path, wire: Wire) -> None:
    """It has every row from before, and writers do not wait for it."""
    before = [services.add_job().id for _ in range(50)]
    stop, written = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            written.append(services.add_job().id)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for i in range(5):
            result = run(app, "backup", str(tmp_path / f"{i}.db"))
            assert result.exit_code == 0, result.output
    finally:
        stop.set()
        writer.join()
    assert len(written) > 5
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == [f"{i}.db" for i in range(5)]
    for i in range(5):
        with closing(sqlite3.connect(tmp_path / f"{i}.db")) as copy:
            assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            copied = {row[0] for row in copy.execute("SELECT id FROM jobs")}
        assert set(before) <= copied <= {*before, *written}
    restored = Store(make_engine(f"sqlite:///{tmp_path / '4.db'}", pool_size=1))
    assert restored.job(before[0]) == services.store.job(before[0])
    restored._engine.dispose()


def test_a_copy_replaces_the_previous_one_and_is_private(app: Flask, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"
    file.write_bytes(b"older")
    assert run(app, "backup", str(file)).exit_code == 0
    assert file.read_bytes().startswith(b"SQLite format 3\0")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_failed_copy_is_reported_and_leaves_nothing(app: Flask, services: Gateway, tmp_path: Path) -> None:
    result = run(app, "backup", str(tmp_path / "none/copy.db"))
    assert (result.exit_code, "could not be written" in result.output) == (1, True)
    app.extensions["reelay"] = replace(
        services, settings=replace(services.settings, database_url="postgresql://user:hunter2@host/name")
    )
    result = run(app, "backup", str(tmp_path / "copy.db"))
    assert (result.exit_code, "pg_dump" in result.output, "hunter2" in result.output) == (1, True, False)
    assert list(tmp_path.glob("copy*")) == []


def test_a_damaged_database_does_not_replace_a_good_copy(app: Flask, services: Gateway, tmp_path: Path) -> None:
    broken, copy = tmp_path / "broken.db", tmp_path / "copy.db"
    broken.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    copy.write_bytes(b"of yesterday")
    changed = replace(services.settings, database_url=f"sqlite:///{broken}")
    app.extensions["reelay"] = replace(services, settings=changed)
    assert run(app, "backup", str(copy)).exit_code == 1
    assert copy.read_bytes() == b"of yesterday"
    assert not list(tmp_path.glob(".*part*"))

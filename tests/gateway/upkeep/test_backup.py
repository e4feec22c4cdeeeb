"""`flask --app gateway backup`: a copy that can be restored, made while the gateway writes."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask

from gateway.db.engine import make_engine
from gateway.db.store import Store
from gateway.upkeep import backup
from tests.gateway.conftest import Gateway, Wire
from tests.gateway.test_cli import run
from tests.small_disk import fill, small_disk


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


@pytest.mark.parametrize("noticed", ["before", "while copying"])
def test_a_full_disk_leaves_the_previous_copy_and_nothing_else(
    app: Flask, services: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: str
) -> None:
    with small_disk(tmp_path / "copies", "6m"):
        file = tmp_path / "copies" / "copy.db"
        assert run(app, "backup", str(file)).exit_code == 0
        before = file.read_bytes()
        services.add_job(params={"subtitles": "x" * 8_000_000})
        if noticed == "while copying":
            monkeypatch.setattr(backup, "_check_room", lambda *_: None)
        result = run(app, "backup", str(file))
        assert result.exit_code == 1 and result.output.count("\n") == 1
        reason = "the disk has room for" if noticed == "before" else "disk is full"
        assert reason in result.output and "The previous copy is unchanged." in result.output
        assert [path.name for path in file.parent.iterdir()] == ["copy.db"]
        assert file.read_bytes() == before
        fill(file.parent)
        first = run(app, "backup", str(tmp_path / "copies" / "other.db"))
        assert first.exit_code == 1 and "previous" not in first.output


def test_a_copy_leaves_the_room_that_the_gateway_needs(app: Flask, services: Gateway, tmp_path: Path) -> None:
    """It may go to the gateway's own disk."""
    size = Path(services.store._engine.url.database).stat().st_size
    with small_disk(tmp_path / "copies", str(size + 200_000)):
        assert run(app, "backup", str(tmp_path / "copies/copy.db")).exit_code == 0
    with small_disk(tmp_path / "copies", str(size + 4096)):
        assert "has room for" in run(app, "backup", str(tmp_path / "copies/copy.db")).output


def test_what_killed_backups_left_is_removed(app: Flask, tmp_path: Path) -> None:
    names = [".copy.db.part-1", ".copy.db.part-1-journal", ".copy.db.part-2", ".other.db.part-1"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
        hours = 0 if name.endswith("-2") else 2
        os.utime(tmp_path / name, (time.time() - hours * 3600 - 60,) * 2)
    assert run(app, "backup", str(tmp_path / "copy.db")).exit_code == 0
    left = {path.name for path in tmp_path.glob(".*part*")}
    assert left == {".copy.db.part-2", ".other.db.part-1"}, "one may be in progress, one is another file's"

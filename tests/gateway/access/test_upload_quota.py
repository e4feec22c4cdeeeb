"""Bytes of one key's uploads: what is counted is what lies on the disk, whatever is killed, and whenever."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from gateway.access import upload_quota
from gateway.access.upload_quota import CUT_OFF_MS
from gateway.db import upload_rows
from gateway.db.store import Store
from gateway.domain import ids
from gateway.errors import RequestError, TooManyBytes
from gateway.settings import Settings
from gateway.storage import BLOCK_BYTES, StorageFullError, StorageUnavailable, local
from gateway.upkeep import janitor
from tests.gateway.conftest import PROCESSES, FixedClock, Gateway, Wire, on_every_database, together
from tests.gateway.upkeep.test_janitor import clean, cleaner_of

DAY_MS = 24 * 3600 * 1000
KEY, OTHER = ids.new("key", 0), ids.new("key", 0)


def upload(services: Gateway, key_id: str = KEY, size: int = BLOCK_BYTES, error: Exception | None = None) -> str:
    """Store a file of the key as a request does; with `error`, its body ends with that."""
    key = f"uploads/{key_id}/{ids.ulid(services.clock.now_ms())}"

    def body() -> Any:
        yield b"x" * size
        if error:
            raise error

    with services.upload_quota.counted(key, size):
        services.storage.write(key, body(), size)
    return key


def counted(services: Gateway, key_id: str = KEY) -> int:
    """The total, which must be the sum of the rows."""
    total = upload_rows.total(services.store, key_id)
    rows = services.store.scalar(sa.text(f"SELECT coalesce(sum(size_bytes), 0) FROM uploads WHERE key_id = '{key_id}'"))
    assert total == rows
    return total


def on_disk(services: Gateway, key_id: str = KEY) -> int:
    folder = services.settings.files_dir / "uploads" / key_id
    return sum(-(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for path in folder.glob("*"))


@on_every_database
def test_fifty_uploads_at_once_take_no_more_than_allowed(wire: Wire) -> None:
    gateways = [wire(max_upload_bytes_per_key=20 * BLOCK_BYTES) for _ in range(2)]

    def one(number: int) -> str | RequestError:
        try:
            return upload(gateways[number % 2])
        except RequestError as error:
            return error

    answers = together(50, one)
    assert [type(answer) for answer in answers].count(TooManyBytes) == 30
    assert counted(gateways[0]) == on_disk(gateways[0]) == 20 * BLOCK_BYTES
    assert upload(gateways[0], OTHER), "another key has its own"


def test_a_key_that_has_filled_its_share_is_told_what_frees_bytes(wire: Wire) -> None:
    services = wire(max_upload_bytes_per_key=3 * BLOCK_BYTES, upload_retention_seconds=3600)
    upload(services, size=2 * BLOCK_BYTES)
    with pytest.raises(TooManyBytes) as refused:
        upload(services, size=BLOCK_BYTES + 1)
    error = refused.value
    assert (error.code, error.status, error.retry_after_s) == ("too_many_bytes", 429, 300)
    assert f"MAX_UPLOAD_BYTES_PER_KEY ({3 * BLOCK_BYTES})" in error.message
    assert (
        f"occupy {2 * BLOCK_BYTES} bytes" in error.message
        and "3600 seconds (UPLOAD_RETENTION_SECONDS)" in error.message
    )
    with pytest.raises(TooManyBytes):
        upload(services, OTHER, size=4 * BLOCK_BYTES)
    assert counted(services, OTHER) == 0
    services.clock.advance(3_600_000)
    clean(services)
    assert counted(services) == on_disk(services) == 0
    upload(services, size=3 * BLOCK_BYTES)


def test_small_files_count_as_what_they_take(wire: Wire) -> None:
    services = wire(max_upload_bytes_per_key=3 * BLOCK_BYTES)
    for _ in range(3):
        upload(services, size=1)
    with pytest.raises(TooManyBytes):
        upload(services, size=1)


def test_zero_is_no_limit(wire: Wire) -> None:
    services = wire(max_upload_bytes_per_key=0)
    for _ in range(3):
        upload(services)
    assert counted(services) == 3 * BLOCK_BYTES


@pytest.mark.parametrize("error", [StorageUnavailable(), StorageFullError(), ValueError()])
def test_an_upload_that_fails_is_not_counted(services: Gateway, error: Exception) -> None:
    with pytest.raises(type(error)):
        upload(services, error=error)
    assert counted(services) == on_disk(services) == 0


def test_an_upload_that_fails_after_it_was_stored_is_counted_until_it_is_removed(
    services: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        if folder.name == KEY and any(folder.glob("0*")):
            raise OSError(5, "I/O error")

    monkeypatch.setattr(local, "sync_folder", fail)
    with pytest.raises(Exception, match="I/O error"):
        upload(services)
    assert counted(services) == on_disk(services) == BLOCK_BYTES
    services.clock.advance(DAY_MS)
    clean(services)
    assert counted(services) == on_disk(services) == 0


def test_a_database_that_fails_hides_no_other_error(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OperationalError("DELETE", {}, Exception("database or disk is full"))

    monkeypatch.setattr(upload_rows, "forget", fail)
    with pytest.raises(KeyError):
        upload(services, error=KeyError("mine"))
    monkeypatch.undo()
    assert counted(services) == BLOCK_BYTES
    services.clock.advance(2 * CUT_OFF_MS)
    clean(services)
    assert counted(services) == 0


def test_an_upload_in_progress_stays_counted(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow client of a large file may take longer than CUT_OFF_MS."""
    size = 100 * BLOCK_BYTES
    with services.upload_quota.counted(f"uploads/{KEY}/{ids.ulid(services.clock.now_ms())}", size):
        services.clock.advance(CUT_OFF_MS + 1000 * size // upload_quota.MIN_RATE - 1)
        clean(services)
        assert counted(services) == size
        services.clock.advance(1)
        clean(services)
        assert counted(services) == 0


def test_an_upload_that_a_job_needs_stays_counted(services: Gateway) -> None:
    key = upload(services)
    url = services.storage.presign_get(key, expires_at=services.clock.now_ms() + DAY_MS, for_worker=True)
    job = services.add_job(key_id=KEY, params={"url_video": url}, queue_limit_s=9 * DAY_MS)
    for _ in range(3):
        services.clock.advance(DAY_MS)
        clean(services)
        assert counted(services) == on_disk(services) == BLOCK_BYTES
    services.jobs.cancel(job.id, KEY)
    clean(services)
    assert counted(services) == on_disk(services) == 0


# Killed between any two lines

WATCHED = {module.__file__ for module in (upload_quota, upload_rows, local, janitor)}
LISTING = {"keys", "_places", "_names", "_folders_in", "<genexpr>", "<listcomp>", "path"}
TOO_LATE = 77


def killed(settings: Settings, now: int, line: int, work: Callable[[Gateway], object]) -> None:
    """In a process of its own: do `work` and die before the `line`th line of the modules WATCHED."""
    left = line

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in WATCHED or frame.f_code.co_name in LISTING:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(0)
        return trace

    services = Gateway.wire(settings, clock=FixedClock(now), provider={})
    sys.settrace(trace)
    work(services)
    os._exit(TOO_LATE)


def clean_files(services: Gateway) -> None:
    cleaner = cleaner_of(services)
    for part in (cleaner._files, cleaner._uploads):
        for _ in part():
            pass


@pytest.mark.slow
@pytest.mark.parametrize("work", [upload, clean_files], ids=["upload", "clean-up"])
def test_a_death_between_any_two_lines_leaves_the_count_right(
    services: Gateway, work: Callable[[Gateway], object]
) -> None:
    """Once leftovers are removed, what is counted is what lies on the disk, and then nothing."""
    settings, clock = replace(services.settings), services.clock
    code, line = 0, 0
    while code != TOO_LATE:
        line += 1
        upload(services)
        if work is clean_files:
            clock.advance(DAY_MS)  # it has expired
        process = PROCESSES.Process(target=killed, args=(settings, clock.now_ms(), line, work))
        process.start()
        process.join()
        code = process.exitcode
        assert code in {0, TOO_LATE}
        assert counted(services) >= on_disk(services), "never less than there is"
        clock.advance(2 * CUT_OFF_MS)
        for part in services.settings.files_dir.rglob(".part-*"):
            os.utime(part, (0, 0))
        clean_files(services)
        services.storage.tidy()
        assert counted(services) == on_disk(services)
        clock.advance(DAY_MS)
        clean_files(services)
        assert counted(services) == on_disk(services) == 0
    assert line > 30


def test_the_clean_up_looks_for_a_file_rarely(services: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when the upload must have ended, and when it has expired: in S3 each look is a request."""
    looked: list[str] = []
    size = services.storage.size
    monkeypatch.setattr(services.storage, "size", lambda key: looked.append(key) or size(key))
    upload(services)
    for _ in range(23):
        services.clock.advance(3_600_000)
        clean(services)
    assert len(looked) == 1


def test_the_total_needs_no_scan(store: Store) -> None:
    with store._engine.connect() as connection:
        plan = connection.execute(sa.text("EXPLAIN QUERY PLAN SELECT size_bytes FROM upload_totals WHERE key_id = 'k'"))
        assert "SEARCH" in str(plan.all())
        due = "EXPLAIN QUERY PLAN SELECT id FROM uploads WHERE check_at <= 1 ORDER BY check_at LIMIT 100"
        assert "uploads_to_check" in str(connection.execute(sa.text(due)).all())


def test_a_janitor_without_uploads_writes_nothing(services: Gateway) -> None:
    seen: list[str] = []
    sa.event.listen(services.store._engine, "before_cursor_execute", lambda *event: seen.append(event[2]))
    for _ in cleaner_of(services)._uploads():
        pass
    assert len(seen) == 1

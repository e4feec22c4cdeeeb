"""Space that is kept for ending jobs and cleaning up, because deleting rows needs room for SQLite's journal.

A file beside the database occupies it, and is deleted when the disk is full. New jobs and files are refused before they
could take that space: they always leave `kept_free` bytes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from gateway.storage import kept_free

log = structlog.get_logger(__name__)

# The file is made again when there is room for so many of it: as much must stay free, or new jobs would be refused.
ROOM_FOR = 2
_CHUNK_BYTES = 1 << 20
# Primary result codes of SQLite that a full disk may cause.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


class Reserve:
    """The file `.reserve` in `folder`; with None there is none, because the database is elsewhere. Thread-safe."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def of(cls, engine: sa.Engine) -> Reserve:
        """The reserve beside the database file of `engine`."""
        file = engine.url.database if engine.dialect.name == "sqlite" else None
        return cls(Path(file).parent if file else None)

    def is_low(self) -> bool:
        """Whether only what ends jobs or cleans up may still write."""
        if self._folder is None:
            return False
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError:  # the database reports it
            return False
        kept = kept_free(usage.total)
        return usage.free < kept or (usage.free < 2 * kept and not self._path(self._folder).exists())

    def is_read_only(self) -> bool:
        """Whether the disk of the database has become read-only, which SQLite reports as a mere I/O error."""
        if self._folder is None:
            return False
        try:  # statvfs does not know it when the kernel has stopped all writes after an error
            with tempfile.TemporaryFile(dir=self._folder):
                return False
        except OSError as error:
            return error.errno == errno.EROFS

    def give_up(self, error: Exception) -> bool:
        """If the full disk has caused the database's `error`, delete the file. Return whether to try again."""
        if self._folder is None or not _may_be_of_full_disk(error) or not self.is_low():
            return False
        with suppress(OSError):
            self._path(self._folder).unlink()
            log.warning("reserve.given_up", folder=str(self._folder))
        return shutil.disk_usage(self._folder).free > 0

    def restore(self) -> None:
        """Make the file if it is missing and there is enough room."""
        if self._folder is None:
            return
        with suppress(OSError):  # tried again later
            usage = shutil.disk_usage(self._folder)
            path, size = self._path(self._folder), kept_free(usage.total)
            if usage.free >= ROOM_FOR * size and not (path.exists() and path.stat().st_size == size):
                _write(path, size)

    @staticmethod
    def _path(folder: Path) -> Path:
        return folder / ".reserve"


def _may_be_of_full_disk(error: Exception) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", 0) & 0xFF in _FULL


def _write(path: Path, size: int) -> None:
    """Write the file; one that was cut off by a crash is written again."""
    try:
        with path.open("wb", buffering=0) as file:
            while left := size - file.tell():
                file.write(os.urandom(min(left, _CHUNK_BYTES)))  # zeros take no space where the file system compresses
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise

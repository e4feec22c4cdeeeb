"""The private directory of an attempt, removed at its end, or by the next worker after a crash."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import structlog

log = structlog.get_logger(__name__)

_LOCK = ".lock"


@contextmanager
def private_directory(root: Path) -> Iterator[Path]:
    """Create an empty directory for this user only. A lock on a file in it shows that its owner is alive."""
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / _LOCK):
        directory = Path(tempfile.mkdtemp(prefix="attempt-", dir=root))
        owner = _lock(directory / _LOCK)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        owner.close()


def sweep(root: Path) -> int:
    """Remove the directories whose owners died; return how many."""
    root.mkdir(parents=True, exist_ok=True)
    removed = 0
    with _locked(root / _LOCK):
        for directory in root.glob("attempt-*"):
            if _abandoned(directory):
                shutil.rmtree(directory, ignore_errors=True)
                removed += 1
    if removed:
        log.warning("workdir.swept", removed=removed)
    return removed


def _abandoned(directory: Path) -> bool:
    try:
        with _lock(directory / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False
    except (FileNotFoundError, NotADirectoryError):
        return False  # its owner has just removed it, or it is not a directory


def _lock(path: Path, how: int = fcntl.LOCK_EX) -> IO[bytes]:
    file = path.open("ab")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with _lock(path):
        yield

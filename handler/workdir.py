"""The private directory of an attempt, removed at its end, or by the next worker after a crash."""

from __future__ import annotations

import fcntl
import itertools
import tempfile
import uuid
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
        _remove(directory)
        owner.close()


def sweep(root: Path) -> int:
    """Remove the directories whose owners died; return how many."""
    root.mkdir(parents=True, exist_ok=True)
    removed = 0
    with _locked(root / _LOCK):
        for directory in root.glob("attempt-*"):
            if _abandoned(directory):
                _remove(directory)
                removed += 1
    if removed:
        log.warning("workdir.swept", removed=removed)
    return removed


def _remove(directory: Path) -> None:
    """Remove a directory, however deep a hijacked FFmpeg has made it: what lies in its folders is moved up first.

    What cannot be removed stays, which is logged.
    """
    prefix, number = uuid.uuid4().hex, itertools.count()
    try:
        while folders := _without_files(directory):
            for folder in folders:
                for path in _opened(folder).iterdir():
                    _opened(path).rename(directory / f"{prefix}-{next(number)}")
                folder.rmdir()
        directory.rmdir()
    except OSError as error:
        log.warning("workdir.remove_failed", error=str(error))


def _without_files(directory: Path) -> list[Path]:
    """Remove the files of a directory; return its folders."""
    folders = []
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            folders.append(path)
        else:
            path.unlink()
    return folders


def _opened(path: Path) -> Path:
    """`path`, which may be changed if it is a folder, whatever its mode was."""
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
    return path


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

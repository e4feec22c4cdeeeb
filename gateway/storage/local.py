"""Files on the gateway's own disk, behind `/files/<key>?signature=…`.

A signature binds method, key, expiry and, for PUT, the maximum size. A file appears under its name whole or not at
all: it is written under another name, flushed to the disk, and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from common.clock import Clock
from gateway.settings import Settings
from gateway.signing import Signer
from gateway.storage import KEY, StorageFullError, StorageUnavailable, kept_free
from wire.envelope import Upload

_FOLDERS = ("outputs", "uploads")
_PART = ".part-"
_PUBLISHED = 0o644
# An incomplete file that no process holds is a leftover, unless it was created just now and is not locked yet.
HALF_WRITTEN_MS = 10_000

# Held while a folder is created or removed: an empty folder may be one that a transfer is about to use.
_folders = threading.Lock()


class LocalStorage:
    """Storage below `settings.files_dir`."""

    def __init__(self, settings: Settings, signer: Signer, clock: Clock) -> None:
        self._settings, self._signer, self._clock = settings, signer, clock
        self._root = settings.files_dir

    def presign_put(self, key: str, *, max_bytes: int, expires_at: int, file_name: str | None = None) -> Upload:
        url = self._url(self._settings.worker_base, "PUT", key, expires_at, max_bytes)
        return Upload(url=url, max_bytes=max_bytes)

    def presign_get(self, key: str, *, expires_at: int, for_worker: bool = False) -> str:
        base = self._settings.worker_base if for_worker else self._settings.client_base
        return self._url(base, "GET", key, expires_at, 0)

    def size(self, key: str) -> int | None:
        with _disk():
            try:
                return self.path(key).stat().st_size
            except FileNotFoundError:
                self._make_root()
                return None

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            path = self.path(key)
            path.unlink(missing_ok=True)
            self._remove_empty(path.parent)

    def keys(self) -> Iterator[str]:
        for folder in self._places():
            for name in _names(folder):
                key = f"{folder.relative_to(self._root)}/{name}"
                if KEY.fullmatch(key):
                    yield key

    def tidy(self) -> None:
        """Remove incomplete files that are no longer written, and empty folders."""
        for folder in self._places():
            for path in (folder / name for name in _names(folder) if name.startswith(_PART)):
                with suppress(FileNotFoundError):  # it was just finished
                    old = self._clock.now_ms() - path.stat().st_mtime * 1000 > HALF_WRITTEN_MS
                    if old and not _is_held(path):
                        path.unlink(missing_ok=True)
            self._remove_empty(folder)
        for job in _folders_in(self._root / "outputs"):
            _remove_if_empty(job)

    def _places(self) -> Iterator[Path]:
        """The folders that contain files: one for each attempt, and one for each key that has uploaded."""
        outputs, uploads = (_folders_in(self._root / kind) for kind in _FOLDERS)
        for job in outputs:
            yield from _folders_in(job)
        yield from uploads

    def _remove_empty(self, folder: Path) -> None:
        """Remove the folder and its parents while they are empty, but never the two that contain all files."""
        while folder.parent != self._root and _remove_if_empty(folder):
            folder = folder.parent

    def path(self, key: str) -> Path:
        """Return the path of the file `key`. Raises ValueError if that is not a storage key.

        Raises FileNotFoundError if a part of the path is a symbolic link, which Reelay never creates.
        """
        if not KEY.fullmatch(key):
            raise ValueError("not a storage key")
        path = self._root / key
        if any(place.is_symlink() for place in (path, *path.parents[: key.count("/")])):
            raise FileNotFoundError(errno.ENOENT, "a symbolic link", key)
        return path

    def publish(self, key: str) -> None:
        """Let other users read the file: nginx, which sends it, runs as one. Raises OSError if that is impossible."""
        path = self.path(key)
        if not path.stat().st_mode & stat.S_IROTH:
            path.chmod(_PUBLISHED)

    def allowed(self, method: str, key: str, signature: str) -> int | None:
        """Return the maximum size that `signature` allows for this call (0 for GET); None if it does not allow it."""
        match self._signer.read(_purpose(key), signature):
            case [str(granted), int(expires_at), int(max_bytes)] if granted == method:
                return max_bytes if self._clock.now_ms() < expires_at else None
        return None

    def write(self, key: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        path = self.path(key)
        with _disk():
            self._make_root()
            try:
                _write_whole(path, self._while_there_is_room(chunks, size_bytes))
            except BaseException:
                self._remove_empty(path.parent)
                raise

    def _while_there_is_room(self, chunks: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
        self._check_room(size_bytes)
        for chunk in chunks:
            self._check_room(len(chunk))  # other files grow too
            yield chunk

    def _check_room(self, size_bytes: int) -> None:
        usage = shutil.disk_usage(self._root)
        if usage.free - size_bytes < kept_free(usage.total):
            raise StorageFullError

    def check(self) -> None:
        with _disk():
            self._make_root()
            self._check_room(0)
            with tempfile.TemporaryFile(dir=self._root, buffering=0) as file:
                file.write(b"reelay")

    def free_percent(self) -> float:
        """Return the percentage of the disk that is free, 0 to 100."""
        with _disk():
            self._make_root()
            usage = shutil.disk_usage(self._root)
        return 100 * usage.free / usage.total

    def _make_root(self) -> None:
        """Create the root folder without its parents: if DATA_DIR is missing, its disk may not be mounted."""
        if not self._root.is_dir():
            self._root.mkdir(exist_ok=True)
            sync_folder(self._root.parent)

    def _url(self, base: str, method: str, key: str, expires_at: int, max_bytes: int) -> str:
        signature = self._signer.sign(_purpose(key), [method, expires_at, max_bytes])
        return f"{base}/files/{quote(key)}?signature={signature}"


@contextmanager
def _disk() -> Iterator[None]:
    """Raise errors of the disk as StorageFullError or StorageUnavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise StorageFullError from error
        raise StorageUnavailable(f"the disk: {error.strerror or error}") from error


def _purpose(key: str) -> str:
    return f"file:{key}"


def _make_folder(folder: Path) -> None:
    """Create the folder and its parents, synced to the disk: a synced file in an unsynced folder can be lost."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _names(folder: Path) -> list[str]:
    if folder.is_symlink():
        return []
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _folders_in(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _names(folder))


def _remove_if_empty(folder: Path) -> bool:
    with _folders:
        try:
            folder.rmdir()
        except OSError:  # it contains files, or was removed already
            return False
    return True


def _is_held(path: Path) -> bool:
    """Whether a process, this or another one, is writing the incomplete file. A lock ends with its process."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _begin(folder: Path) -> tuple[int, str]:
    """Create, open and lock a file in `folder`. Return its descriptor and its path."""
    while True:
        with _folders:
            try:
                _make_folder(folder)
                handle, name = tempfile.mkstemp(prefix=_PART, dir=folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
                return handle, name
            except FileNotFoundError:
                continue  # another process has just removed the folder as empty


def _write_whole(path: Path, chunks: Iterable[bytes]) -> None:
    handle, name = _begin(path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names of the files in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

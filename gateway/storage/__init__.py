"""Where outputs and uploads are stored, behind one protocol."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Protocol
from urllib.parse import quote

from wire.envelope import OUTPUT_NAME, Upload
from wire.media_types import ANY_MIME, MEDIA_TYPES, of_file_name

_ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_EXTENSION = "|".join(media_type.extension for media_type in MEDIA_TYPES.values())
_OUTPUT = rf"outputs/job_{_ULID}/att_{_ULID}/{OUTPUT_NAME.pattern}\.(?:{_EXTENSION})"
KEY = re.compile(rf"{_OUTPUT}|uploads/key_{_ULID}/{_ULID}")
# Space that a file takes at least.
BLOCK_BYTES = 4096
# Several times what SQLite's journal takes (4 MB): its pages may have to be added to the database first.
MAX_KEPT_BYTES = 16_000_000


def kept_free(disk_bytes: int) -> int:
    """How much of a disk of this size new jobs and files leave free: room for ending jobs and cleaning up."""
    return min(MAX_KEPT_BYTES, disk_bytes // 4)


def mime_of(key: str) -> str:
    """The MIME type of a file; uploads of clients have none of their own."""
    media_type = of_file_name(key)
    return media_type.mime if media_type else ANY_MIME


def content_disposition(file_name: str) -> str:
    """The header that names a download (RFC 6266), with an ASCII name for clients that read no other."""
    plain = unicodedata.normalize("NFKD", file_name).encode("ascii", "ignore").decode().replace('"', r"\"")
    return f"inline; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"


class StorageFullError(Exception):
    """There is not enough space for the file."""


class StorageUnavailable(Exception):
    """The storage cannot be used at the moment; the message says why."""


class Storage(Protocol):
    """Keys are `outputs/<job>/<attempt>/<name>.<extension>` and `uploads/<key id>/<ulid>`; others raise ValueError.

    Times are in ms UTC. Methods raise StorageUnavailable if the disk or the server fails; presigning accesses neither.
    """

    def presign_put(self, key: str, *, max_bytes: int, expires_at: int, file_name: str | None = None) -> Upload:
        """Sign an upload of the file, which may be repeated until `expires_at`.

        `file_name` is the name for its downloads, where the storage serves them itself.
        """

    def presign_get(self, key: str, *, expires_at: int, for_worker: bool = False) -> str:
        """Sign a URL of the file, valid until `expires_at`. `for_worker`: use the address that workers reach.

        The URL of a storage that is public to clients needs no signature, and is valid as long as the file exists.
        """

    def size(self, key: str) -> int | None:
        """Return the size of a completely stored file in bytes; None if it does not exist."""

    def write(self, key: str, chunks: Iterable[bytes], size_bytes: int) -> None:
        """Store a file of `size_bytes` atomically, replacing an existing one.

        Raises StorageFullError, StorageUnavailable, and exceptions of `chunks` other than OSError.
        """

    def delete(self, key: str) -> None:
        """Remove the file if it exists. Downloads in progress continue."""

    def keys(self) -> Iterator[str]:
        """Iterate over the keys of all completely stored files, in any order, while files are added and removed."""

    def tidy(self) -> None:
        """Remove leftovers of incomplete transfers, such as those of a killed process."""

    def check(self) -> None:
        """Raise StorageUnavailable or StorageFullError if files cannot be stored and read."""

    def free_percent(self) -> float:
        """Return the percentage of free space, 0 to 100; 100 if it is unlimited."""

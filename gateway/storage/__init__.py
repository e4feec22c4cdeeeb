"""Where outputs and uploads are stored, behind one protocol."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from wire.envelope import OUTPUT_NAME, Upload
from wire.media_types import ANY_MIME, MEDIA_TYPES, of_file_name

_ULID = "[0-7][0-9A-HJKMNP-TV-Z]{25}"
_EXTENSION = "|".join(media_type.extension for media_type in MEDIA_TYPES.values())
_OUTPUT = rf"outputs/job_{_ULID}/att_{_ULID}/{OUTPUT_NAME.pattern}\.(?:{_EXTENSION})"
KEY = re.compile(rf"{_OUTPUT}|uploads/key_{_ULID}/{_ULID}")


def mime_of(key: str) -> str:
    """How the file of `key` is served; what clients uploaded may be anything."""
    media_type = of_file_name(key)
    return media_type.mime if media_type else ANY_MIME


def download_name(key: str) -> str:
    """What the file of `key` is called where it is saved: `<job>-<output>.<extension>` for an output."""
    match key.split("/"):
        case ["outputs", job_id, _, name]:
            return f"{job_id}-{name}"
    return key.rpartition("/")[2]


@dataclass(frozen=True)
class StoredFile:
    """A file that is wholly there."""

    key: str
    size_bytes: int


class StorageFullError(Exception):
    """There is no room for the file."""


class StorageUnavailable(Exception):
    """Nothing could be found out or done there now; the message says why."""


class Storage(Protocol):
    """Keys are `outputs/<job>/<attempt>/<name>.<extension>` and `uploads/<key id>/<ulid>`; all else is a ValueError.

    Times are in ms UTC. What asks the disk, or the machine where files lie, raises StorageUnavailable; presigning asks
    nobody.
    """

    def presign_put(self, key: str, *, max_bytes: int, expires_at: int) -> Upload:
        """Where a worker may put the file, once or again, until `expires_at`."""

    def presign_get(self, key: str, *, expires_at: int, for_worker: bool = False) -> str:
        """A URL of the file that needs no key, valid until `expires_at`; `for_worker` when a worker will read it."""

    def stat(self, key: str) -> StoredFile | None:
        """The file, or None when it is not there."""

    def write(self, key: str, chunks: Iterable[bytes], size_bytes: int) -> StoredFile:
        """Store the file of `size_bytes`, replacing what was there; whole or, whatever is raised, not at all.

        Raises StorageFullError, StorageUnavailable, and what `chunks` raises, if that is no OSError.
        """

    def delete(self, key: str) -> None:
        """Remove the file; no error when it is not there. Downloads of it that have begun go on to their end."""

    def keys(self) -> Iterator[str]:
        """The keys of all files that are wholly there, in any order. Files may come and go meanwhile."""

    def tidy(self) -> None:
        """Remove what transfers left behind that never came to their end, as of a process that was killed."""

    def check(self) -> None:
        """Raises StorageUnavailable when files can neither be stored nor found."""

    def free_percent(self) -> float:
        """ThreadLimit of the room that is free, 0 to 100."""

"""The files of a job: what it will make, and what is stored once it has."""

from __future__ import annotations

from dataclasses import dataclass

from wire.media_types import MEDIA_TYPES, MediaType


@dataclass(frozen=True)
class Output:
    """A file that a job makes."""

    #: Name of its media type.
    type: str
    #: Its storage key, once the job has completed.
    key: str | None = None
    #: Its size in bytes, once the job has completed.
    size_bytes: int | None = None

    @property
    def media_type(self) -> MediaType:
        return MEDIA_TYPES[self.type]

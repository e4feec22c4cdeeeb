"""Ids: a prefix that names the kind, and a ULID, so that they sort by time."""

from __future__ import annotations

from typing import Literal

from ulid import ULID

Kind = Literal["job", "att", "key", "rent"]


def new(kind: Kind, now_ms: int) -> str:
    """Return a new id such as `job_01J…`."""
    return f"{kind}_{ULID.from_timestamp(now_ms / 1000)}"


def ulid(now_ms: int) -> str:
    """Return a new bare ULID."""
    return str(ULID.from_timestamp(now_ms / 1000))


def first(kind: Kind, at_ms: int) -> str:
    """Return the smallest id of this kind for a time: no id created at `at_ms` or later sorts before it."""
    return f"{kind}_{ULID.from_bytes(at_ms.to_bytes(6) + bytes(10))}"


def made_at(id_: str) -> int:
    """Return when an id, or a bare ULID, was created, in ms UTC."""
    return ULID.from_str(id_.rpartition("_")[2]).milliseconds

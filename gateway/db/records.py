"""Records that only the database layer makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Unfinished:
    """Jobs that have not ended: how many by status, when the oldest was made, how many should have ended."""

    by_status: Mapping[str, int]
    oldest_at: int | None
    past_limits: int


@dataclass(frozen=True)
class ApiKey:
    """A client's key. Its secret is not stored, only the SHA-256; `scopes` are words with commas between them.

    `previous_sha256`: of the secret before it, which is valid too until `previous_until`.
    `webhook_rotations`: how often the secret of its webhooks was changed, the last time at `webhook_rotated_at`.
    """

    id: str
    name: str
    source: str
    prefix: str
    secret_sha256: str
    created_at: int
    revoked_at: int | None = None
    webhook_rotations: int = 0
    webhook_rotated_at: int | None = None
    scopes: str = ""
    previous_sha256: str | None = None
    previous_until: int | None = None


@dataclass(frozen=True)
class Usage:
    """How many jobs of a key have not ended, and what its attempts have cost, in nano-dollars: those that ended today,
    and one in the mean of the last day on which any did; 0 while nothing is known.
    """

    unfinished: int
    today_nano: int
    mean_nano: int

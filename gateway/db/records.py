"""Records that only the database layer creates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Unfinished:
    """The jobs that have not ended."""

    #: Number of jobs by status.
    by_status: Mapping[str, int]
    #: When the oldest was created, ms UTC; None without jobs.
    oldest_at: int | None
    #: Number of jobs that should have ended by their own limits.
    past_limits: int


@dataclass(frozen=True)
class ApiKey:
    """A client's key. Times are ms UTC."""

    #: `key_` + ULID.
    id: str
    #: The client's name, as the operator wrote it.
    name: str
    #: `cli`, or `environment` for the key in X_API_KEY.
    source: str
    #: The first characters of the secret, for display; empty for a key of the environment.
    prefix: str
    #: SHA-256 of the secret, hexadecimal. The secret itself is not stored.
    secret_sha256: str
    #: When it was created.
    created_at: int
    #: When it was revoked; None while it is valid.
    revoked_at: int | None = None
    #: Number of times that its webhook secret was rotated.
    webhook_rotations: int = 0
    #: When the webhook secret was last rotated; None if never.
    webhook_rotated_at: int | None = None
    #: Its scopes, separated by commas: `jobs,metrics`.
    scopes: str = ""
    #: SHA-256 of the previous secret; None if it was never rotated.
    previous_sha256: str | None = None
    #: When the previous secret expires.
    previous_until: int | None = None


@dataclass(frozen=True)
class Usage:
    """What a key uses of its quotas."""

    #: Number of its jobs that have not ended.
    unfinished: int
    #: Total size of their params.
    params_bytes: int
    #: Cost of its attempts that ended today (UTC), in nano-dollars.
    today_nano: int
    #: Mean cost of an attempt on the last day on which one ended, in nano-dollars; 0 if unknown.
    mean_nano: int

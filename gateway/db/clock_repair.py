"""Makes times plausible again after the clock was set back, so that nothing waits for the time to come round again."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy import Table

from gateway.db.tables import attempts, jobs, leases, rentals, webhooks
from gateway.db.transaction import Transaction

# Longest lease of any kind.
LONGEST_MS = 60_000
# How far the clocks of two gateways may differ.
SKEW_MS = 5_000

# Columns that record when something happened.
_PAST: Mapping[Table, tuple[str, ...]] = {
    jobs: ("queued_at",),
    attempts: ("sent_at", "running_at", "claimed_at", "heard_at"),
    webhooks: ("last_try_at",),
    rentals: ("stage_at", "heard_at", "silent_since", "missing_at"),
}
# Columns that say when something may be done. At most a lease ahead, except pauses, which may be cut short.
_PLANNED: Mapping[Table, tuple[str, ...]] = {
    jobs: ("next_at", "lease_expires_at"),
    webhooks: ("lease_expires_at",),
    leases: ("expires_at",),
}


def was_set_back(tx: Transaction, now: int) -> bool:
    """Whether a lease lasts longer than any lease does, which shows that it was taken before the clock was set back."""
    latest = tx.connection.scalar(sa.select(sa.func.max(leases.c.expires_at)))
    return latest is not None and latest > now + LONGEST_MS + SKEW_MS


def bring_back(tx: Transaction, now: int) -> None:
    """Set times that are impossible at `now` (ms UTC) to `now`."""
    # Before `last_try_at` itself: a pause between two tries may be long, so only this shows that it is wrong.
    hasty = sa.or_(webhooks.c.last_try_at.is_(None), webhooks.c.last_try_at > now + SKEW_MS)
    _set(tx, webhooks, "next_at", now, sa.and_(webhooks.c.next_at > now + LONGEST_MS + SKEW_MS, hasty))
    lifetime = rentals.c.deadline - rentals.c.created_at
    _set(tx, rentals, "deadline", now + lifetime, rentals.c.created_at > now + SKEW_MS)
    for table, names in _PAST.items():
        for name in names:
            _set(tx, table, name, now, table.c[name] > now + SKEW_MS)
    for table, names in _PLANNED.items():
        for name in names:
            _set(tx, table, name, now, table.c[name] > now + LONGEST_MS + SKEW_MS)


def _set(tx: Transaction, table: Table, name: str, value: object, where: sa.ColumnElement[bool]) -> None:
    tx.connection.execute(table.update().where(where).values({name: value}))

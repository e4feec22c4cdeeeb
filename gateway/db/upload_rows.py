"""The rows of uploads and the total size of each key's, which are always changed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import sqlalchemy as sa

from gateway.db.store import Store
from gateway.db.tables import upload_totals, uploads
from gateway.db.transaction import Transaction


def count(tx: Transaction, upload_id: str, key_id: str, size_bytes: int, *, limit: int, check_at: int) -> bool:
    """Add a row, unless the key's uploads would exceed `limit` bytes. Return whether it was added."""
    if size_bytes > limit:
        return False
    fits = upload_totals.c.size_bytes + size_bytes <= limit
    if not tx.add_up(upload_totals, {"key_id": key_id}, {"size_bytes": size_bytes}, where=fits):
        return False
    row = {"id": upload_id, "key_id": key_id, "size_bytes": size_bytes, "check_at": check_at}
    tx.connection.execute(uploads.insert(), row)
    return True


def forget(tx: Transaction, upload_ids: Collection[str]) -> None:
    """Delete the rows that exist: their files no longer do."""
    deleted = uploads.delete().where(uploads.c.id.in_(upload_ids)).returning(uploads.c.key_id, uploads.c.size_bytes)
    freed = Counter[str]()
    for key_id, size_bytes in tx.connection.execute(deleted):
        freed[key_id] += size_bytes
    for key_id in sorted(freed):  # sorted, so that locks cannot deadlock
        left = upload_totals.c.size_bytes - freed[key_id]
        tx.connection.execute(
            upload_totals.update().where(upload_totals.c.key_id == key_id).values({"size_bytes": left})
        )


def to_check(store: Store, now: int, limit: int) -> list[tuple[str, str]]:
    """(upload id, key id) of up to `limit` rows whose files should be looked for, the most overdue first."""
    due = sa.select(uploads.c.id, uploads.c.key_id).where(uploads.c.check_at <= now)
    return store.pairs(due.order_by(uploads.c.check_at).limit(limit))


def postpone(tx: Transaction, check_at: Mapping[str, int]) -> None:
    """Set when the files of these uploads are looked for next."""
    if check_at:
        query = uploads.update().where(uploads.c.id == sa.bindparam("row_id")).values(check_at=sa.bindparam("at"))
        tx.connection.execute(query, [{"row_id": upload_id, "at": at} for upload_id, at in check_at.items()])


def total(store: Store, key_id: str) -> int:
    """Total size of the key's uploads in bytes, including those in progress."""
    return store.scalar(sa.select(upload_totals.c.size_bytes).where(upload_totals.c.key_id == key_id)) or 0

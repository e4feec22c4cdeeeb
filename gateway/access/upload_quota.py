"""Limit of the bytes that one key's uploads may occupy, so that one key cannot fill the disk.

An upload is counted before its first byte is written and until its file has been removed. If its process is killed in
between, the janitor looks for the file later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.exc import SQLAlchemyError

from common.clock import Clock
from common.http_connection import MIN_RATE
from gateway.db import upload_rows
from gateway.db.engine import brief
from gateway.db.store import Store
from gateway.errors import TooManyBytes
from gateway.settings import Settings
from gateway.storage import BLOCK_BYTES, Storage, StorageUnavailable

log = structlog.get_logger(__name__)

NO_LIMIT = 2**62
# An upload that has neither ended after this time, nor after the longest time that its size may take, was cut off.
CUT_OFF_MS = 3600 * 1000
RETRY_AFTER_S = 300


class UploadQuota:
    """Counts uploads per key, in the database, so that all gateways and restarts see the same."""

    def __init__(self, settings: Settings, store: Store, storage: Storage, clock: Clock) -> None:
        self._limit = settings.max_upload_bytes_per_key or NO_LIMIT
        self._kept_s = settings.upload_retention_seconds
        self._store, self._storage, self._clock = store, storage, clock

    @contextmanager
    def counted(self, key: str, size_bytes: int) -> Iterator[None]:
        """Count the file `key` of `size_bytes`, which is stored inside the block, unless the block raises.

        Raises TooManyBytes if the uploads of the API key would then exceed the limit.
        """
        _, key_id, upload_id = key.split("/")
        # In whole blocks: otherwise many small files could fill the disk.
        occupied = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        check_at = self._clock.now_ms() + CUT_OFF_MS + 1000 * size_bytes // MIN_RATE
        if not self._store.together(
            lambda tx: upload_rows.count(tx, upload_id, key_id, occupied, limit=self._limit, check_at=check_at)
        ):
            raise self._refusal(key_id, size_bytes)
        try:
            yield
        except BaseException:
            self._forget_unless_stored(key, upload_id)
            raise

    def _refusal(self, key_id: str, size_bytes: int) -> TooManyBytes:
        held = upload_rows.total(self._store, key_id)
        return TooManyBytes(
            f"The key's uploads occupy {held} bytes; with {size_bytes} more they would exceed "
            f"MAX_UPLOAD_BYTES_PER_KEY ({self._limit}). An upload is removed {self._kept_s} seconds "
            "(UPLOAD_RETENTION_SECONDS) after it was stored, or when the last job that uses it has ended.",
            retry_after_s=RETRY_AFTER_S,
        )

    def _forget_unless_stored(self, key: str, upload_id: str) -> None:
        try:
            if self._storage.size(key) is None:
                self._store.together(lambda tx: upload_rows.forget(tx, [upload_id]))
        except (SQLAlchemyError, StorageUnavailable) as error:  # the janitor looks for the file later
            reason = brief(error) if isinstance(error, SQLAlchemyError) else str(error)
            log.warning("upload.not_forgotten", key=key, reason=reason)

"""Removes what has expired: outputs, uploads, jobs, rentals, idempotency records, and leftovers of crashes.

Whether an output has expired follows from its job's times and is not stored. So a crash between two removals leaves
nothing inconsistent, and several gateways may clean up at once. Files come first: removing them needs no room, and
removing rows does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import islice

import structlog
from sqlalchemy.exc import SQLAlchemyError

from common.clock import Clock
from gateway.db import rental_store, upload_rows
from gateway.db.engine import brief
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.domain import ids
from gateway.domain.jobs import Job
from gateway.settings import Settings
from gateway.storage import Storage, StorageUnavailable

log = structlog.get_logger(__name__)

# Pause from the end of a round to the start of the next, usually and while the disk is full.
ROUND_MS, ROUND_OF_FULL_DISK_MS = 300_000, 10_000
# Rows or files per batch, maximum duration of a step, and the pause between batches: SQLite's write lock is not fair.
# On a full disk, batches of rows and pages are smaller by CUT: their journal must fit into the reserve.
BATCH, CUT = 100, 10
STEP_S = 1.0
PAUSE_S = 0.01
# Pages of 4 kB that are given back to the disk at a time.
PAGES = 500
RENTALS_KEPT_S = 2 * 86_400
# Pause between two looks for the file of an upload that is kept beyond its time because a job needs it.
CHECK_AGAIN_MS = 3600 * 1000


class Janitor:
    """Works in rounds; a round visits every file and all old rows. For one thread at a time."""

    def __init__(self, store: Store, storage: Storage, clock: Clock, settings: Settings) -> None:
        self._store, self._storage, self._clock, self._settings = store, storage, clock, settings
        self._round: Iterator[None] | None = None
        self._ended_at: int | None = None
        self._removed: Counter[str] = Counter()
        self._uploads_gone: list[str] = []

    def step(self, stopping: threading.Event) -> None:
        """Continue the round, or begin one if it is due, for at most STEP_S or until `stopping` is set."""
        now = self._clock.now_ms()
        self._store.reserve.restore()
        if self._round is None:
            pause_ms = ROUND_OF_FULL_DISK_MS if self._store.reserve.is_low() else ROUND_MS
            if self._ended_at is not None and 0 <= now - self._ended_at < pause_ms:
                return
            self._round = self._clean_up()
        ends_at = time.monotonic() + STEP_S
        for _ in self._round:
            if stopping.wait(PAUSE_S) or time.monotonic() > ends_at:
                return
        self._round, self._ended_at = None, now

    def _clean_up(self) -> Iterator[None]:
        """One round; yields after every batch."""
        self._removed.clear()
        parts: tuple[Callable[[], Iterator[None]], ...] = (
            self._files,
            self._tidy,
            self._uploads,
            self._jobs,
            self._rentals,
            self._spending,
            self._idempotency,
            self._pages,
        )
        for part in parts:
            name = part.__name__.strip("_")
            try:
                yield from part()
            # The other parts still run; this one runs again in the next round.
            except SQLAlchemyError as error:
                log.error("clean_up.part_failed", part=name, reason=brief(error))
            except (OSError, StorageUnavailable) as error:
                log.error("clean_up.part_failed", part=name, reason=str(error))
            except Exception:
                log.exception("clean_up.part_failed", part=name)
        if self._removed.total():
            log.info("clean_up.finished", **self._removed)

    def _jobs(self) -> Iterator[None]:
        until = self._before(self._settings.job_retention_seconds)
        removed = batch = self._batch(BATCH)
        while removed == batch:
            removed = self._store.together(lambda tx: tx.delete_jobs(until, batch))
            self._removed["jobs"] += removed
            yield

    def _rentals(self) -> Iterator[None]:
        # Recent rentals are needed to compute the day's spending.
        until = self._before(max(self._settings.job_retention_seconds, RENTALS_KEPT_S))
        removed = batch = self._batch(BATCH)
        self._store.together(lambda tx: rental_store.forget_avoided(tx, self._clock.now_ms()))
        while removed == batch:
            removed = self._store.together(lambda tx: rental_store.delete_ended(tx, until, batch))
            self._removed["rentals"] += removed
            yield

    def _spending(self) -> Iterator[None]:
        self._store.together(lambda tx: tx.forget_spending(self._clock.now_ms()))
        yield

    def _idempotency(self) -> Iterator[None]:
        until = self._before(self._settings.idempotency_retention_seconds)
        # Searched outside the transaction: without an index on their age, the search is slow.
        while old := self._store.old_idempotency_keys(until, self._batch(BATCH)):
            delete = partial(Transaction.delete_idempotency_keys, keys=old, until=until)
            self._removed["idempotency"] += self._store.together(delete)
            yield

    def _files(self) -> Iterator[None]:
        keys = self._storage.keys()
        while some := list(islice(keys, BATCH)):
            for key in self._unwanted_outputs(some):
                self._delete(key)
            gone = [key for key in self._unwanted_uploads(some) if self._delete(key)]
            self._uploads_gone += (key.rpartition("/")[2] for key in gone)
            yield

    def _uploads(self) -> Iterator[None]:
        """Forget the uploads without a file: it was removed, or its process was killed meanwhile."""
        removed, self._uploads_gone = iter(self._uploads_gone), []
        while gone := list(islice(removed, self._batch(BATCH))):
            self._store.together(partial(upload_rows.forget, upload_ids=gone))
            yield
        now, kept_ms = self._clock.now_ms(), self._settings.upload_retention_seconds * 1000
        while some := upload_rows.to_check(self._store, now, self._batch(BATCH)):
            gone, next_at = [], {}
            for upload_id, key_id in some:
                if self._storage.size(f"uploads/{key_id}/{upload_id}") is None:
                    gone.append(upload_id)
                else:
                    next_at[upload_id] = max(ids.made_at(upload_id) + kept_ms, now + CHECK_AGAIN_MS)
            self._store.together(partial(upload_rows.forget, upload_ids=gone))
            self._store.together(partial(upload_rows.postpone, check_at=next_at))
            yield

    def _tidy(self) -> Iterator[None]:
        self._storage.tidy()
        yield

    def _pages(self) -> Iterator[None]:
        given_back = batch = self._batch(PAGES)
        while given_back == batch:
            given_back = self._store.together(lambda tx: tx.give_back_pages(batch))
            yield
        self._store.checkpoint()  # only now the file becomes shorter

    def _batch(self, usual: int) -> int:
        """Return how many rows or pages to delete at a time."""
        return usual // CUT if self._store.reserve.is_low() else usual

    def _unwanted_outputs(self, keys: Collection[str]) -> list[str]:
        job_of = {key: key.split("/")[1] for key in keys if key.startswith("outputs/")}
        jobs = self._store.jobs_by_id(set(job_of.values()))
        return [key for key, job_id in job_of.items() if not self._wanted(key, job_id, jobs.get(job_id))]

    def _wanted(self, key: str, job_id: str, job: Job | None) -> bool:
        kept_s = self._settings.output_retention_seconds
        if job is None:  # removed, or the database was restored from a backup and the file may still be needed
            return ids.made_at(job_id) > self._before(kept_s)
        if not job.finished:  # its newest attempt may be uploading or about to report
            return job.attempt_id is not None and key.split("/")[2] == job.attempt_id
        expires_at = job.outputs_expire_at(kept_s)
        stored = {output.key for output in job.outputs.values()}
        return key in stored and expires_at is not None and self._clock.now_ms() < expires_at

    def _unwanted_uploads(self, keys: Collection[str]) -> list[str]:
        before = self._before(self._settings.upload_retention_seconds)
        old = [key for key in keys if key.startswith("uploads/") and ids.made_at(key.rpartition("/")[2]) <= before]
        # Queried after they have expired, when no new job may use them any more.
        for params in self._store.unfinished_params("uploads/") if old else ():
            old = [key for key in old if key not in params]
        return old

    def _delete(self, key: str) -> bool:
        try:
            self._storage.delete(key)
        except (OSError, StorageUnavailable) as error:
            log.error("clean_up.delete_failed", key=key, reason=str(error))
            return False
        self._removed[key.partition("/")[0]] += 1
        return True

    def _before(self, kept_s: int) -> int:
        """Return the time `kept_s` ago: what was created before it has been kept long enough."""
        return self._clock.now_ms() - kept_s * 1000

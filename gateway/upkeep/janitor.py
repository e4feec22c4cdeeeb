"""Removes what nobody may ask for any more: old outputs, uploads, jobs, rentals, idempotency records, a crash's rest.

A job's own times tell whether its output is still there; no row says so. Whatever is removed first, a crash in between
leaves nothing that contradicts. What is unwanted once stays unwanted, so that several may clean up at the same time.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from itertools import islice

import structlog

from common.clock import Clock
from gateway.db import rental_store
from gateway.db.store import Store
from gateway.domain import ids
from gateway.domain.jobs import Job
from gateway.settings import Settings
from gateway.storage import Storage, StorageUnavailable

log = structlog.get_logger(__name__)

# From the end of one round to the beginning of the next.
ROUND_MS = 300_000
# Rows or files of one piece of work, how long a step goes on with pieces, and its pause between two of them: the lock
# of those who write is not fair.
BATCH = 100
STEP_S = 1.0
PAUSE_S = 0.01
RENTALS_KEPT_S = 2 * 86_400


class Janitor:
    """`step` does a little of a round; a round sees every file and all old rows. For one thread at a time."""

    def __init__(self, store: Store, storage: Storage, clock: Clock, settings: Settings) -> None:
        self._store, self._storage, self._clock, self._settings = store, storage, clock, settings
        self._round: Iterator[None] | None = None
        self._ended_at: int | None = None
        self._removed: Counter[str] = Counter()

    def step(self, stopping: threading.Event) -> None:
        """Go on with the round, or begin one when it is time, for STEP_S at most or until `stopping`."""
        now = self._clock.now_ms()
        if self._round is None:
            if self._ended_at is not None and 0 <= now - self._ended_at < ROUND_MS:
                return
            self._round = self._clean_up()
        ends_at = time.monotonic() + STEP_S
        for _ in self._round:
            if stopping.wait(PAUSE_S) or time.monotonic() > ends_at:
                return
        self._round, self._ended_at = None, now

    def _clean_up(self) -> Iterator[None]:
        """One round, in pieces."""
        self._removed.clear()
        parts: tuple[Callable[[], Iterator[None]], ...] = (
            self._jobs,
            self._rentals,
            self._spending,
            self._idempotency,
            self._files,
            self._tidy,
        )
        for part in parts:
            try:
                yield from part()
            except Exception:
                # the others still have their turn, and this one again in the next round
                log.exception("clean_up.failed", part=part.__name__.strip("_"))
        if self._removed.total():
            log.info("clean_up.done", **self._removed)

    def _jobs(self) -> Iterator[None]:
        until = self._before(self._settings.job_retention_seconds)
        removed = BATCH
        while removed == BATCH:
            with self._store.transaction() as tx:
                removed = tx.delete_jobs(until, BATCH)
            self._removed["jobs"] += removed
            yield

    def _rentals(self) -> Iterator[None]:
        # those of the day tell what was spent
        until = self._before(max(self._settings.job_retention_seconds, RENTALS_KEPT_S))
        removed = BATCH
        while removed == BATCH:
            with self._store.transaction() as tx:
                removed = rental_store.delete_ended(tx, until, BATCH)
                rental_store.forget_avoided(tx, self._clock.now_ms())
            self._removed["rentals"] += removed
            yield

    def _spending(self) -> Iterator[None]:
        with self._store.transaction() as tx:
            tx.forget_spending(self._clock.now_ms())
        yield

    def _idempotency(self) -> Iterator[None]:
        until = self._before(self._settings.idempotency_retention_seconds)
        # looked for outside the transaction: no index tells their age, and nobody shall wait for the search
        while old := self._store.old_idempotency_keys(until, BATCH):
            with self._store.transaction() as tx:
                self._removed["idempotency"] += tx.delete_idempotency_keys(old, until)
            yield

    def _files(self) -> Iterator[None]:
        keys = self._storage.keys()
        while some := list(islice(keys, BATCH)):
            for key in [*self._unwanted_outputs(some), *self._unwanted_uploads(some)]:
                self._delete(key)
            yield

    def _tidy(self) -> Iterator[None]:
        self._storage.tidy()
        yield

    def _unwanted_outputs(self, keys: Collection[str]) -> list[str]:
        job_of = {key: key.split("/")[1] for key in keys if key.startswith("outputs/")}
        jobs = self._store.jobs_by_id(set(job_of.values()))
        return [key for key, job_id in job_of.items() if not self._wanted(key, job_id, jobs.get(job_id))]

    def _wanted(self, key: str, job_id: str, job: Job | None) -> bool:
        kept_s = self._settings.output_retention_seconds
        if job is None:  # removed; or the database is an old copy, and somebody may still look for the file
            return ids.made_at(job_id) > self._before(kept_s)
        if not job.finished:  # its newest attempt may be about to upload, or to report that it has
            return job.attempt_id is not None and key.endswith(f"/{job.attempt_id}.mp4")
        expires_at = job.output_expires_at(kept_s)
        return job.output_key == key and expires_at is not None and self._clock.now_ms() < expires_at

    def _unwanted_uploads(self, keys: Collection[str]) -> list[str]:
        before = self._before(self._settings.upload_retention_seconds)
        old = [key for key in keys if key.startswith("uploads/") and ids.made_at(key.rpartition("/")[2]) <= before]
        # asked after their time was up: jobs that came later named a file that might be gone
        needed = self._store.unfinished_params("uploads/") if old else []
        return [key for key in old if not any(key in params for params in needed)]

    def _delete(self, key: str) -> None:
        try:
            self._storage.delete(key)
        except (OSError, StorageUnavailable) as error:
            log.error("clean_up.delete_failed", key=key, reason=str(error))
        else:
            self._removed[key.partition("/")[0]] += 1

    def _before(self, kept_s: int) -> int:
        """What was made then or earlier has been kept long enough."""
        return self._clock.now_ms() - kept_s * 1000

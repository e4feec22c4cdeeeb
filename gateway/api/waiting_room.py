"""Requests that wait for jobs: woken by the end of the last, with one look at the database for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway.db.store import Store
from gateway.domain.jobs import Job
from gateway.errors import Unauthorized

# How often ends that another process committed, and revoked keys, are looked for.
LOOK_S = 0.5


@dataclass(eq=False)
class _Waiter:
    """One request that waits."""

    #: The API key of its jobs.
    key_id: str
    #: Ids of the jobs that are not known to have ended.
    pending: set[str]
    #: Set once none is pending, the key was revoked, or the server stops.
    woken: threading.Event = field(default_factory=threading.Event)


class WaitingRoom:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._waiting: set[_Waiter] = set()
        self._looked_at, self._closing = 0.0, False

    def wait(self, jobs: Sequence[Job], seconds: float) -> list[Job]:
        """Wait until all of `jobs`, which are of one key, have ended, but not longer than `seconds` or until `close`.

        Return them as they are then, in the same order. Raises Unauthorized when the key was revoked in the meantime.
        """
        ends_at = time.monotonic() + seconds
        with self._registered(jobs) as waiter:
            while True:
                jobs = self._read(jobs, waiter)
                left = ends_at - time.monotonic()
                if all(job.finished for job in jobs) or left <= 0 or self._closing:
                    return jobs
                while not waiter.woken.wait(min(LOOK_S, left)):
                    self._look()
                    if (left := ends_at - time.monotonic()) <= 0:
                        break
                waiter.woken.clear()
                if self._store.revoked([waiter.key_id]):
                    raise Unauthorized

    def ended(self, job_id: str) -> None:
        """Wake the requests that wait for this job and for no other."""
        self._strike({job_id}, revoked=set())

    def close(self) -> None:
        """Let all waiting requests return now, because the server stops and would cut them off."""
        self._closing = True
        with self._lock:
            for waiter in self._waiting:
                waiter.woken.set()

    @contextmanager
    def _registered(self, jobs: Sequence[Job]) -> Iterator[_Waiter]:
        waiter = _Waiter(jobs[0].key_id, {job.id for job in jobs})
        with self._lock:
            self._waiting.add(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiting.remove(waiter)

    def _read(self, jobs: Sequence[Job], waiter: _Waiter) -> list[Job]:
        """The jobs as they are now."""
        found = self._store.jobs_by_id([job.id for job in jobs if not job.finished])
        jobs = [found.get(job.id, job) for job in jobs]
        with self._lock:
            waiter.pending.difference_update(job.id for job in jobs if job.finished)
        return jobs

    def _look(self) -> None:
        """Wake the requests whose jobs have ended or whose key was revoked, unless another thread has just looked."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._looked_at < LOOK_S:
                return
            self._looked_at = time.monotonic()
            with self._lock:
                pending = set().union(*(waiter.pending for waiter in self._waiting))
                keys = {waiter.key_id for waiter in self._waiting}
            self._strike(self._store.finished(pending), self._store.revoked(keys))
        finally:
            self._looking.release()

    def _strike(self, ended: set[str], revoked: set[str]) -> None:
        """Wake the requests of revoked keys, and those for which none of their jobs is pending any more."""
        with self._lock:
            for waiter in self._waiting:
                before = len(waiter.pending)
                waiter.pending -= ended
                if waiter.key_id in revoked or (before and not waiter.pending):
                    waiter.woken.set()

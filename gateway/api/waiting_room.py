"""Requests that wait for jobs: woken by the job's end, with one look at the database for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.db.store import Store
from gateway.domain.jobs import Job
from gateway.errors import Unauthorized

# How often ends that another process committed, and revoked keys, are looked for.
LOOK_S = 0.5


class WaitingRoom:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._waiting: dict[threading.Event, Job] = {}
        self._looked_at, self._closing = 0.0, False

    def wait(self, job: Job, seconds: float) -> Job:
        """Wait until the job has finished, but not longer than `seconds` or until `close`. Return it as it is then.

        Raises Unauthorized when the job's key was revoked in the meantime.
        """
        ends_at = time.monotonic() + seconds
        with self._registered(job) as woken:
            while True:
                job = self._store.job(job.id) or job
                left = ends_at - time.monotonic()
                if job.finished or left <= 0 or self._closing:
                    return job
                while not woken.wait(min(LOOK_S, left)):
                    self._look()
                    if (left := ends_at - time.monotonic()) <= 0:
                        break
                woken.clear()
                if self._store.revoked([job.key_id]):
                    raise Unauthorized

    def ended(self, job_id: str) -> None:
        """Wake the requests that wait for this job."""
        with self._lock:
            for woken, job in self._waiting.items():
                if job.id == job_id:
                    woken.set()

    def close(self) -> None:
        """Let all waiting requests return now, because the server stops and would cut them off."""
        self._closing = True
        with self._lock:
            for woken in self._waiting:
                woken.set()

    @contextmanager
    def _registered(self, job: Job) -> Iterator[threading.Event]:
        woken = threading.Event()
        with self._lock:
            self._waiting[woken] = job
        try:
            yield woken
        finally:
            with self._lock:
                del self._waiting[woken]

    def _look(self) -> None:
        """Wake the requests whose job has ended or whose key was revoked, unless another thread has just looked."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            if time.monotonic() - self._looked_at < LOOK_S:
                return
            self._looked_at = time.monotonic()
            with self._lock:
                waiting = list(self._waiting.items())
            ended = self._store.finished({job.id for _, job in waiting})
            revoked = self._store.revoked({job.key_id for _, job in waiting})
            for woken, job in waiting:
                if job.id in ended or job.key_id in revoked:
                    woken.set()
        finally:
            self._looking.release()

"""Limits of unfinished jobs and daily spending per key, so that a stolen key or a runaway workflow costs little."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from common.clock import DAY_MS
from gateway.db.records import Usage
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.domain.jobs import Job
from gateway.errors import RequestError, SpendingLimit, TooManyJobs
from gateway.settings import Settings

# Counting is expensive for a key with thousands of jobs. A key far from its limits gets an allowance: a number of jobs
# that it may create within ALLOWANCE_MS without being counted.
ALLOWANCE, ALLOWANCE_MS = 250, 250
# Closer than this to a limit, a key's jobs are counted one by one. It covers the allowances of four gateways.
MARGIN = 4 * ALLOWANCE
# Retry-After if the key has too many jobs, and if only the estimated cost of its unfinished jobs reaches the limit.
TOO_MANY_S, MAY_GET_CHEAPER_S = 10, 60


class Quotas:
    """Decides whether keys may have more jobs and attempts. Counts are cached for at most ALLOWANCE_MS."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._max_jobs, self._limit_nano = settings.max_jobs_per_key, settings.daily_spending_limit_nano
        self._store, self._lock = store, threading.Lock()
        self._allowances: dict[str, tuple[int, int]] = {}  # since when, and how many jobs are left
        self._spent: dict[str, tuple[int, bool]] = {}

    def day_is_spent(self, key_id: str, now: int) -> bool:
        """Whether the key has reached its daily limit and gets no further attempt."""
        if not self._limit_nano:
            return False
        counted_at, spent = self._spent.get(key_id, (0, False))
        if not counted_at <= now < counted_at + ALLOWANCE_MS:
            spent = self._store.spent_today(key_id, now) >= self._limit_nano
            self._spent[key_id] = now, spent
        return spent

    def refusals(self, tx: Transaction, made: Sequence[Job]) -> dict[str, RequestError]:
        """Return the errors of the new jobs that exceed a limit of their key, by id: TooManyJobs or SpendingLimit.

        Call this in the transaction that creates the jobs.
        """
        if not self._max_jobs and not self._limit_nano:
            return {}
        refused: dict[str, RequestError] = {}
        for key_id in sorted({job.key_id for job in made}):  # sorted, so that locks cannot deadlock
            of_key = [job for job in made if job.key_id == key_id]
            now = max(job.created_at for job in of_key)
            if not self._take_allowance(key_id, len(of_key), now):
                refused |= self._count(tx, key_id, of_key, now)
        return refused

    def _take_allowance(self, key_id: str, count: int, now: int) -> bool:
        with self._lock:
            since, left = self._allowances.get(key_id, (0, 0))
            if not since <= now < since + ALLOWANCE_MS or left < count:
                return False
            self._allowances[key_id] = since, left - count
            return True

    def _count(self, tx: Transaction, key_id: str, made: Sequence[Job], now: int) -> dict[str, RequestError]:
        usage = tx.usage(key_id, now)
        far = self._refusal(usage, now, further=len(made) + MARGIN) is None
        with self._lock:
            self._allowances[key_id] = now, ALLOWANCE if far else 0
        if far:
            return {}
        tx.lock_key(key_id)
        usage = tx.usage(key_id, now)
        refused: dict[str, RequestError] = {}
        for number, job in enumerate(made):
            if refusal := self._refusal(usage, now, further=number - len(refused)):
                refused[job.id] = refusal
        return refused

    def _refusal(self, usage: Usage, now: int, further: int) -> RequestError | None:
        """Return why the key may not have one more job after its unfinished ones and `further` new ones, or None."""
        jobs = usage.unfinished + further
        if self._max_jobs and jobs >= self._max_jobs:
            return TooManyJobs(f"The key has {jobs} unfinished jobs, which is its maximum.", retry_after_s=TOO_MANY_S)
        if not self._limit_nano or usage.today_nano + jobs * usage.mean_nano < self._limit_nano:
            return None
        if usage.today_nano < self._limit_nano:
            return SpendingLimit(retry_after_s=MAY_GET_CHEAPER_S)
        return SpendingLimit(retry_after_s=(DAY_MS - now % DAY_MS) // 1000 + 1)

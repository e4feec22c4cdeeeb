"""Limits of unfinished jobs, their params' bytes and daily spending per key.

They keep a stolen key or a runaway workflow from costing much, and from filling the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from common.clock import DAY_MS
from gateway.db.records import Usage
from gateway.db.store import Store
from gateway.db.transaction import Transaction
from gateway.domain.jobs import Job
from gateway.errors import RequestError, SpendingLimit, TooManyBytes, TooManyJobs
from gateway.settings import Settings

# Counting is expensive for a key with thousands of jobs. A key far from its limits gets an allowance: a number of jobs,
# and a share of the maximum of bytes, that it may use within ALLOWANCE_MS without being counted.
ALLOWANCE, ALLOWANCE_SHARE, ALLOWANCE_MS = 250, 50, 250
# Closer than this to a limit, a key's jobs are counted one by one. It covers the allowances of four gateways.
GATEWAYS = 4
MARGIN = GATEWAYS * ALLOWANCE
NO_LIMIT = 2**62
# Retry-After if the key has too many jobs or bytes, and if only the estimated cost of its jobs reaches the limit.
TOO_MANY_S, MAY_GET_CHEAPER_S = 10, 60


@dataclass(frozen=True)
class _Allowance:
    """What a key may use without being counted."""

    #: When it was given, ms UTC.
    since: int = 0
    #: Number of jobs left.
    jobs: int = 0
    #: Bytes of params left.
    params_bytes: int = 0


class Quotas:
    """Decides whether keys may have more jobs and attempts. Counts are cached for at most ALLOWANCE_MS."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._max_jobs, self._limit_nano = settings.max_jobs_per_key, settings.daily_spending_limit_nano
        self._max_bytes = settings.max_params_bytes_per_key
        self._store, self._lock = store, threading.Lock()
        self._allowances: dict[str, _Allowance] = {}
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
        """Return the errors of the new jobs that exceed a limit of their key, by id.

        They are TooManyJobs, TooManyBytes and SpendingLimit. Call this in the transaction that creates the jobs.
        """
        if not self._max_jobs and not self._max_bytes and not self._limit_nano:
            return {}
        refused: dict[str, RequestError] = {}
        for key_id in sorted({job.key_id for job in made}):  # sorted, so that locks cannot deadlock
            of_key = [job for job in made if job.key_id == key_id]
            now = max(job.created_at for job in of_key)
            if not self._take_allowance(key_id, of_key, now):
                refused |= self._count(tx, key_id, of_key, now)
        return refused

    def _take_allowance(self, key_id: str, made: Sequence[Job], now: int) -> bool:
        with self._lock:
            old = self._allowances.get(key_id, _Allowance())
            left = _Allowance(old.since, old.jobs - len(made), old.params_bytes - _bytes_of(made))
            if not old.since <= now < old.since + ALLOWANCE_MS or left.jobs < 0 or left.params_bytes < 0:
                return False
            self._allowances[key_id] = left
            return True

    def _count(self, tx: Transaction, key_id: str, made: Sequence[Job], now: int) -> dict[str, RequestError]:
        tx.lock_key(key_id)
        if self._take_allowance(key_id, made, now):
            return {}  # another thread has counted meanwhile
        usage = tx.usage(key_id, now)
        share = self._max_bytes // ALLOWANCE_SHARE if self._max_bytes else NO_LIMIT
        after = _bytes_of(made) + GATEWAYS * share
        far = self._refusal(usage, now, jobs=len(made) + MARGIN, params_bytes=after) is None
        with self._lock:
            self._allowances[key_id] = _Allowance(now, ALLOWANCE, share) if far else _Allowance(now)
        if far:
            return {}
        refused: dict[str, RequestError] = {}
        taken: list[Job] = []
        for job in made:
            params_bytes = _bytes_of([*taken, job])
            if refusal := self._refusal(usage, now, jobs=len(taken), params_bytes=params_bytes):
                refused[job.id] = refusal
            else:
                taken.append(job)
        return refused

    def _refusal(self, usage: Usage, now: int, *, jobs: int, params_bytes: int) -> RequestError | None:
        """Return why the key may not have one more job after its unfinished ones and `jobs` new ones, or None.

        `params_bytes`: of the new ones, this one included.
        """
        jobs += usage.unfinished
        if self._max_jobs and jobs >= self._max_jobs:
            return TooManyJobs(f"The key has {jobs} unfinished jobs, which is its maximum.", retry_after_s=TOO_MANY_S)
        if self._max_bytes and usage.params_bytes + params_bytes > self._max_bytes:
            return TooManyBytes(
                f"The params of the key's unfinished jobs take {usage.params_bytes} bytes; with {params_bytes} more "
                f"they would exceed MAX_PARAMS_BYTES_PER_KEY ({self._max_bytes}). Params are removed when their job "
                "ends; DELETE /jobs/<id> cancels one.",
                retry_after_s=TOO_MANY_S,
            )
        if not self._limit_nano or usage.today_nano + jobs * usage.mean_nano < self._limit_nano:
            return None
        if usage.today_nano < self._limit_nano:
            return SpendingLimit(retry_after_s=MAY_GET_CHEAPER_S)
        return SpendingLimit(retry_after_s=(DAY_MS - now % DAY_MS) // 1000 + 1)


def _bytes_of(made: Sequence[Job]) -> int:
    return sum(job.params_bytes for job in made)

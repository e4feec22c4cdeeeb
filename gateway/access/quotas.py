"""What one key may have under way, and spend: a stolen key or a loop in a workflow must not cost without end."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from gateway.db.records import Usage
from gateway.db.store import Store
from gateway.db.tables import DAY_MS
from gateway.db.transaction import Transaction
from gateway.domain.jobs import Job
from gateway.errors import RequestError, SpendingLimit, TooManyJobs
from gateway.settings import Settings

# To count is dear where a key has thousands of jobs: far from its limits that many more may be made for so long.
AHEAD, AHEAD_MS = 250, 250
# Less than that from a limit is near: every new job is counted then, one after the other. It is what four gateways may
# have ahead at the same moment, and more than any can have in its transactions.
NEAR = 4 * AHEAD
TOO_MANY_S, MAY_GET_CHEAPER_S = 10, 60


class Quotas:
    """`refusals` belongs into the transaction that makes the jobs. What was looked up is kept for AHEAD_MS at most."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._most_jobs, self._limit_nano = settings.max_jobs_per_key, settings.daily_spending_limit_nano
        self._store, self._lock = store, threading.Lock()
        self._ahead: dict[str, tuple[int, int]] = {}
        self._spent: dict[str, tuple[int, bool]] = {}

    def day_is_spent(self, key_id: str, now: int) -> bool:
        """Whether the key has no money left for another attempt."""
        if not self._limit_nano:
            return False
        seen_at, spent = self._spent.get(key_id, (0, False))
        if not seen_at <= now < seen_at + AHEAD_MS:
            spent = self._store.spent_today(key_id, now) >= self._limit_nano
            self._spent[key_id] = now, spent
        return spent

    def refusals(self, tx: Transaction, made: Sequence[Job]) -> dict[str, RequestError]:
        """Which of the new jobs are too many for their key, by their ids: TooManyJobs or SpendingLimit."""
        if not self._most_jobs and not self._limit_nano:
            return {}
        refused: dict[str, RequestError] = {}
        for key_id in sorted({job.key_id for job in made}):  # in order: two who lock keys must not wait for each other
            of_key = [job for job in made if job.key_id == key_id]
            now = max(job.created_at for job in of_key)
            if not self._take_ahead(key_id, len(of_key), now):
                refused |= self._counted(tx, key_id, of_key, now)
        return refused

    def _take_ahead(self, key_id: str, count: int, now: int) -> bool:
        with self._lock:
            since, left = self._ahead.get(key_id, (0, 0))
            if not since <= now < since + AHEAD_MS or left < count:
                return False
            self._ahead[key_id] = since, left - count
            return True

    def _counted(self, tx: Transaction, key_id: str, made: Sequence[Job], now: int) -> dict[str, RequestError]:
        usage = tx.usage(key_id, now)
        far = self._refusal(usage, now, beside=len(made) + NEAR) is None
        with self._lock:
            self._ahead[key_id] = now, AHEAD if far else 0
        if far:
            return {}
        tx.lock_key(key_id)
        usage = tx.usage(key_id, now)
        refused: dict[str, RequestError] = {}
        for number, job in enumerate(made):
            if refusal := self._refusal(usage, now, beside=number - len(refused)):
                refused[job.id] = refusal
        return refused

    def _refusal(self, usage: Usage, now: int, beside: int) -> RequestError | None:
        """Why there may be no more jobs than the unfinished ones and so many `beside`."""
        jobs = usage.unfinished + beside
        if self._most_jobs and jobs >= self._most_jobs:
            return TooManyJobs(f"The key has {jobs} unfinished jobs, as many as it may have.", retry_after_s=TOO_MANY_S)
        if not self._limit_nano or usage.today_nano + jobs * usage.mean_nano < self._limit_nano:
            return None
        if usage.today_nano < self._limit_nano:
            return SpendingLimit(retry_after_s=MAY_GET_CHEAPER_S)
        return SpendingLimit(retry_after_s=(DAY_MS - now % DAY_MS) // 1000 + 1)

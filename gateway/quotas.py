"""What one key may have under way, and spend: a stolen key or a loop in a workflow must not cost without end."""

from __future__ import annotations

from gateway.settings import Settings
from gateway.store import DAY_MS, Transaction
from wire.errors import RequestError, SpendingLimit, TooManyJobs

# So near to a limit new jobs of a key are made one after the other: no more requests than that are in their
# transactions at the same moment. On SQLite they are never.
NEAR = 500
TOO_MANY_S, MAY_GET_CHEAPER_S = 10, 60


class Quotas:
    """`check` belongs into the transaction that makes the job."""

    def __init__(self, settings: Settings) -> None:
        self._most_jobs, self._limit_nano = settings.max_jobs_per_key, settings.daily_spending_limit_nano

    def check(self, tx: Transaction, key_id: str, now: int) -> None:
        """Raises TooManyJobs or SpendingLimit when the key may not make one more job."""
        unlimited = not self._most_jobs and not self._limit_nano
        if unlimited or self._refusal(tx, key_id, now, beside=NEAR) is None:
            return
        tx.lock_key(key_id)
        if refusal := self._refusal(tx, key_id, now):
            raise refusal

    def _refusal(self, tx: Transaction, key_id: str, now: int, beside: int = 0) -> RequestError | None:
        """Why there may be no more jobs than there are now, if so many are made at the same moment."""
        usage = tx.usage(key_id, now)
        jobs = usage.unfinished + beside
        if self._most_jobs and jobs >= self._most_jobs:
            return TooManyJobs(f"The key has {jobs} unfinished jobs, as many as it may have.", retry_after_s=TOO_MANY_S)
        if not self._limit_nano or usage.today_nano + jobs * usage.mean_nano < self._limit_nano:
            return None
        if usage.today_nano < self._limit_nano:
            return SpendingLimit(retry_after_s=MAY_GET_CHEAPER_S)
        return SpendingLimit(retry_after_s=(DAY_MS - now % DAY_MS) // 1000 + 1)

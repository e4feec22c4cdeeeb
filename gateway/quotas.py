"""What one key may have under way, and spend: a stolen key or a loop in a workflow must not cost without end."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.jobs import Job
from gateway.settings import Settings
from gateway.store import DAY_MS, Transaction, Usage
from wire.errors import RequestError, SpendingLimit, TooManyJobs

# So near to a limit new jobs of a key are made one after the other: no more requests than that are in their
# transactions at the same moment. On SQLite they are never.
NEAR = 500
TOO_MANY_S, MAY_GET_CHEAPER_S = 10, 60


class Quotas:
    """`refusals` belongs into the transaction that makes the jobs."""

    def __init__(self, settings: Settings) -> None:
        self._most_jobs, self._limit_nano = settings.max_jobs_per_key, settings.daily_spending_limit_nano

    def refusals(self, tx: Transaction, made: Sequence[Job]) -> dict[str, RequestError]:
        """Which of the new jobs are too many for their key, by their ids: TooManyJobs or SpendingLimit."""
        if not self._most_jobs and not self._limit_nano:
            return {}
        refused: dict[str, RequestError] = {}
        for key_id in sorted({job.key_id for job in made}):  # in order: two who lock keys must not wait for each other
            refused |= self._refusals_of_key(tx, key_id, [job for job in made if job.key_id == key_id])
        return refused

    def _refusals_of_key(self, tx: Transaction, key_id: str, made: Sequence[Job]) -> dict[str, RequestError]:
        now = max(job.created_at for job in made)
        usage = tx.usage(key_id, now)
        if self._refusal(usage, now, beside=len(made) + NEAR):
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

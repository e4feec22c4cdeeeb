"""The database behind one interface: SQLite by default, PostgreSQL by DATABASE_URL.

To change something, open `store.transaction()`, read the records there, make new ones with `gateway.domain.transitions`
and save them. Reads outside a transaction never wait for writers. Rentals are in `gateway.db.rental_store`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from common.clock import DAY_MS
from gateway.db.group_commit import GroupCommit
from gateway.db.records import ApiKey, Unfinished, Usage
from gateway.db.rows import read_api_keys, read_attempt, read_job, read_usage, to_attempt, to_job, to_webhook
from gateway.db.statements import DUE_TRIED, DUE_UNTRIED, DUE_WEBHOOKS, JOB, KEY_BY_HASH, NEXT_DUE_AT, PARAMS, SPENT
from gateway.db.tables import api_keys, attempts, idempotency, job_params, jobs, leases, spending, webhooks
from gateway.db.transaction import Refuse, insert_jobs
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook


class Store:
    """Reads of the tables, and transactions that write. Safe to share between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writers = GroupCommit(engine)
        self.transaction, self.together = self._writers.transaction, self._writers.together

    def add_job(self, job: Job, params: Mapping[str, Any], refuse: Refuse | None = None) -> None:
        """Insert the job, in a commit shared with others. Raises the exception that `refuse` returns for it."""
        refused: Exception | None = self._writers.share(insert_jobs, (job, params, refuse))
        if refused is not None:
            raise refused

    def params(self, job_id: str) -> Mapping[str, Any]:
        """The job's params as the client set them; empty when there is no such job."""
        with self._engine.connect() as connection:
            found: Mapping[str, Any] | None = connection.scalar(PARAMS, {"row_id": job_id})
            return found or {}

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for the reads of other modules, such as `gateway.db.rental_store`."""
        with self._engine.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Query the database. Raises sqlalchemy's errors if it does not respond."""
        with self._engine.connect() as connection:
            connection.execute(sa.select(sa.func.count()).select_from(leases))

    def job(self, job_id: str) -> Job | None:
        with self._engine.connect() as connection:
            return read_job(connection, JOB, row_id=job_id)

    def jobs_by_id(self, job_ids: Collection[str]) -> dict[str, Job]:
        """The jobs that exist, by id."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.id.in_(job_ids))).mappings()
            return {row["id"]: to_job(row) for row in rows}

    def unfinished_params(self, containing: str) -> list[str]:
        """The params of unfinished jobs, as JSON text, that contain the text `containing`."""
        text = sa.cast(job_params.c.params, sa.Text)
        # `next_at` is set until a job is over; with IS NOT NULL, SQLite would not use the index.
        query = sa.select(text).join_from(jobs, job_params)
        query = query.where(jobs.c.next_at > 0, text.contains(containing, autoescape=True))
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def old_idempotency_keys(self, until: int, limit: int) -> list[tuple[str, str]]:
        """(key id, idempotency key) of records that were created at or before `until`."""
        key = idempotency.c.key_id, idempotency.c.idempotency_key
        query = sa.select(*key).where(idempotency.c.created_at <= until).limit(limit)
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

    def attempts(self, job_id: str) -> list[Attempt]:
        """All attempts of a job, oldest first."""
        query = sa.select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.id)
        with self._engine.connect() as connection:
            return [to_attempt(row) for row in connection.execute(query).mappings()]

    def attempts_of(self, job_ids: Collection[str]) -> dict[str, list[Attempt]]:
        """The attempts of several jobs, by the job's id, oldest first."""
        query = sa.select(attempts).where(attempts.c.job_id.in_(job_ids)).order_by(attempts.c.id)
        found: dict[str, list[Attempt]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                found.setdefault(row["job_id"], []).append(to_attempt(row))
        return found

    def attempt(self, attempt_id: str) -> Attempt | None:
        with self._engine.connect() as connection:
            return read_attempt(connection, attempt_id)

    def list_jobs(
        self, key_id: str, *, status: str | None, operation: str | None, before: str | None, limit: int
    ) -> list[Job]:
        """Jobs of one key, newest first, older than the job `before`."""
        query = sa.select(jobs).where(jobs.c.key_id == key_id).order_by(jobs.c.id.desc()).limit(limit)
        for column, value in ((jobs.c.status, status), (jobs.c.operation, operation)):
            query = query if value is None else query.where(column == value)
        query = query if before is None else query.where(jobs.c.id < before)
        with self._engine.connect() as connection:
            return [to_job(row) for row in connection.execute(query).mappings()]

    def due(self, now: int, limit: int, untried: int | None = None) -> list[str]:
        """The ids of due jobs: those without an attempt first, then the most overdue.

        `untried`: maximum number of jobs without an attempt.
        """
        max_untried = limit if untried is None else min(limit, untried)
        with self._engine.connect() as connection:
            found = list(connection.scalars(DUE_UNTRIED, {"now": now, "max_rows": max_untried}))
            if len(found) < limit:
                found += connection.scalars(DUE_TRIED, {"now": now, "max_rows": limit - len(found)})
            return found

    def unfinished(self, now: int, margin_ms: int) -> Unfinished:
        """Figures of the jobs that have not ended. `past_limits`: by more than `margin_ms`."""
        open_jobs = jobs.c.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
        limits_ms = (jobs.c.queue_limit_s + jobs.c.timeout_s) * 1000
        past = sa.case((jobs.c.queued_at + limits_ms + 2 * margin_ms < now, 1), else_=0)
        query = sa.select(jobs.c.status, sa.func.count(), sa.func.min(jobs.c.created_at), sa.func.sum(past))
        with self._engine.connect() as connection:
            rows = connection.execute(query.where(open_jobs).group_by(jobs.c.status)).all()
        return Unfinished(
            {row[0]: row[1] for row in rows}, min((row[2] for row in rows), default=None), sum(row[3] for row in rows)
        )

    def next_due_at(self) -> int | None:
        """When the next job is due, in ms UTC; None if there is none."""
        with self._engine.connect() as connection:
            next_at: int | None = connection.scalar(NEXT_DUE_AT)
            return next_at

    def webhooks(self, job_ids: Collection[str]) -> dict[str, Webhook]:
        """The webhooks of the jobs that have one, by the job's id."""
        query = sa.select(webhooks).where(webhooks.c.job_id.in_(job_ids))
        with self._engine.connect() as connection:
            return {row["job_id"]: to_webhook(row) for row in connection.execute(query).mappings()}

    def due_webhooks(self, now: int, limit: int, not_hosts: Collection[str]) -> list[tuple[str, str]]:
        """(job id, host) of due webhooks, the longest waiting first, except those to `not_hosts`."""
        asked = {"now": now, "max_rows": limit, "not_hosts": list(not_hosts)}
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(DUE_WEBHOOKS, asked)]

    def unsent_webhooks(self) -> tuple[int, int | None]:
        """Number of webhooks still to be sent, and when the oldest of their jobs ended."""
        query = sa.select(sa.func.count(), sa.func.min(jobs.c.finished_at)).join_from(webhooks, jobs)
        with self._engine.connect() as connection:
            count, oldest_at = connection.execute(query.where(webhooks.c.next_at > 0)).one()
            return count, oldest_at

    def api_key(self, key_id: str) -> ApiKey | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
        return ApiKey(**row) if row else None

    def api_key_by_hash(self, secret_sha256: str) -> ApiKey | None:
        """The key whose secret has this hash, or else the key that had it before its rotation."""
        with self._engine.connect() as connection:
            found = [ApiKey(**row) for row in connection.execute(KEY_BY_HASH, {"hash": secret_sha256}).mappings()]
        return max(found, key=lambda key: key.secret_sha256 == secret_sha256, default=None)

    def api_keys(self) -> list[ApiKey]:
        with self._engine.connect() as connection:
            return read_api_keys(connection)

    def usage(self, key_id: str, now: int) -> Usage:
        with self._engine.connect() as connection:
            return read_usage(connection, key_id, now)

    def spent_today(self, key_id: str, now: int) -> int:
        """What the key has spent today, in nano-dollars."""
        with self._engine.connect() as connection:
            return connection.scalar(SPENT, {"row_id": key_id, "day": now // DAY_MS}) or 0

    def spent_by_key(self, now: int) -> dict[str, int]:
        """What keys have spent today, in nano-dollars; those without spending are left out."""
        query = sa.select(spending.c.key_id, spending.c.cost_nano).where(spending.c.day == now // DAY_MS)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def lease_expires_at(self, name: str) -> int | None:
        """When the lease `name` expires, in ms UTC; None when it was never held."""
        with self._engine.connect() as connection:
            expires_at: int | None = connection.scalar(sa.select(leases.c.expires_at).where(leases.c.name == name))
            return expires_at

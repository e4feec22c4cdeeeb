"""The database behind one interface: SQLite by default, PostgreSQL by DATABASE_URL.

To change something, open `store.transaction()`, read the records there, make new ones with `gateway.domain.transitions`
and save them. Reads outside a transaction never wait for writers. Rentals are in `gateway.db.rental_store`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from common.clock import DAY_MS
from gateway.db.engine import outside_transaction
from gateway.db.group_commit import GroupCommit
from gateway.db.records import ApiKey, Unfinished, Usage
from gateway.db.reserve import Reserve
from gateway.db.rows import read_api_keys, read_attempt, read_job, read_usage, to_attempt, to_job, to_webhook
from gateway.db.statements import DUE_TRIED, DUE_UNTRIED, DUE_WEBHOOKS, JOB, KEY_BY_HASH, NEXT_DUE_AT, PARAMS, SPENT
from gateway.db.tables import api_keys, attempts, idempotency, job_params, jobs, leases, spending, webhooks
from gateway.db.transaction import Refuse, insert_jobs
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook

# Rows that are read at a time where each may be large.
_FEW = 8


class Store:
    """Reads of the tables, and transactions that write. Safe to share between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.reserve = Reserve.of(engine)
        self._writers = GroupCommit(engine, self.reserve.give_up)
        self.transaction, self.together = self._writers.transaction, self._writers.together

    def rows(self, query: sa.Executable, values: Mapping[str, Any] | None = None) -> Sequence[sa.RowMapping]:
        """Run a query outside transactions. `values` are those of its parameters."""
        with self._engine.connect() as connection:
            return connection.execute(query, values).mappings().all()

    def pairs(self, query: sa.Executable, values: Mapping[str, Any] | None = None) -> list[tuple[Any, Any]]:
        """Like `rows`, for queries of two columns."""
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(query, values)]

    def scalar(self, query: sa.Executable, values: Mapping[str, Any] | None = None) -> Any:
        """The first value of the query's first row; None without a row."""
        with self._engine.connect() as connection:
            return connection.scalar(query, values)

    def add_job(self, job: Job, params: str, refuse: Refuse | None = None) -> None:
        """Insert the job, in a commit shared with others. Raises the exception that `refuse` returns for it."""
        refused: Exception | None = self._writers.share(insert_jobs, (job, params, refuse))
        if refused is not None:
            raise refused

    def params(self, job_id: str) -> str | None:
        """The job's params as JSON text, as the client set them; None when there is no such job."""
        return self.scalar(PARAMS, {"row_id": job_id})  # type: ignore[no-any-return]

    def checkpoint(self) -> None:
        """Copy SQLite's write-ahead log into the database's file, as far as no reader needs it, without waiting.

        The log keeps its size: on a full disk, it is the room in which jobs end.
        """
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:
                outside_transaction(connection, "PRAGMA wal_checkpoint(PASSIVE)")

    def ping(self) -> None:
        """Query the database. Raises sqlalchemy's errors if it does not respond."""
        self.scalar(sa.select(sa.func.count()).select_from(leases))

    def job(self, job_id: str) -> Job | None:
        with self._engine.connect() as connection:
            return read_job(connection, JOB, row_id=job_id)

    def jobs_by_id(self, job_ids: Collection[str]) -> dict[str, Job]:
        """The jobs that exist, by id."""
        return {row["id"]: to_job(row) for row in self.rows(sa.select(jobs).where(jobs.c.id.in_(job_ids)))}

    def finished(self, job_ids: Collection[str]) -> set[str]:
        """Those of the jobs that have ended."""
        query = sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.finished_at.is_not(None))
        return {row["id"] for row in self.rows(query)}

    def revoked(self, key_ids: Collection[str]) -> set[str]:
        """Those of the keys that are revoked."""
        query = sa.select(api_keys.c.id).where(api_keys.c.id.in_(key_ids), api_keys.c.revoked_at.is_not(None))
        return {row["id"] for row in self.rows(query)}

    def unfinished_params(self, containing: str) -> Iterator[str]:
        """The params of unfinished jobs that contain the text `containing`; read a few at a time."""
        text = job_params.c.params
        # `next_at` is set until a job is over; with IS NOT NULL, SQLite would not use the index.
        query = sa.select(text).join_from(jobs, job_params)
        query = query.where(jobs.c.next_at > 0, text.contains(containing, autoescape=True))
        with self._engine.connect() as connection:
            yield from connection.execute(query.execution_options(yield_per=_FEW)).scalars()

    def old_idempotency_keys(self, until: int, limit: int) -> list[tuple[str, str]]:
        """(key id, idempotency key) of records that were created at or before `until`."""
        key = idempotency.c.key_id, idempotency.c.idempotency_key
        return self.pairs(sa.select(*key).where(idempotency.c.created_at <= until).limit(limit))

    def attempts(self, job_id: str) -> list[Attempt]:
        """All attempts of a job, oldest first."""
        return self.attempts_of([job_id]).get(job_id, [])

    def attempts_of(self, job_ids: Collection[str]) -> dict[str, list[Attempt]]:
        """The attempts of several jobs, by the job's id, oldest first."""
        found: dict[str, list[Attempt]] = {}
        for row in self.rows(sa.select(attempts).where(attempts.c.job_id.in_(job_ids)).order_by(attempts.c.id)):
            found.setdefault(row["job_id"], []).append(to_attempt(row))
        return found

    def attempt(self, attempt_id: str) -> Attempt | None:
        with self._engine.connect() as connection:
            return read_attempt(connection, attempt_id)

    def list_jobs(self, key_id: str, *, limit: int, before: str | None = None, **equal: str | None) -> list[Job]:
        """Jobs of one key, newest first, older than `before`. `equal`: values of columns; None means any."""
        query = sa.select(jobs).where(jobs.c.key_id == key_id).order_by(jobs.c.id.desc()).limit(limit)
        query = query.where(*(jobs.c[name] == value for name, value in equal.items() if value is not None))
        return [to_job(row) for row in self.rows(query if before is None else query.where(jobs.c.id < before))]

    def due(self, now: int, limit: int, *, untried: bool, not_keys: Collection[str] = ()) -> list[tuple[str, str]]:
        """(job id, key id) of due jobs, the most overdue first, without those of `not_keys`.

        `untried`: those that have had no attempt; otherwise all others.
        """
        query = DUE_UNTRIED if untried else DUE_TRIED
        return self.pairs(query, {"now": now, "max_rows": limit, "not_keys": list(not_keys)})

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
        return self.scalar(NEXT_DUE_AT)  # type: ignore[no-any-return]

    def webhooks(self, job_ids: Collection[str]) -> dict[str, Webhook]:
        """The webhooks of the jobs that have one, by the job's id."""
        query = sa.select(webhooks).where(webhooks.c.job_id.in_(job_ids))
        return {row["job_id"]: to_webhook(row) for row in self.rows(query)}

    def due_webhooks(
        self, now: int, limit: int, *, not_keys: Collection[str] = (), not_hosts: Collection[str] = ()
    ) -> list[tuple[str, str, str]]:
        """(job id, key id, host) of due webhooks, the longest waiting first, not of or to those named."""
        values = {"now": now, "max_rows": limit, "not_keys": list(not_keys), "not_hosts": list(not_hosts)}
        return [(row["job_id"], row["key_id"], row["host"]) for row in self.rows(DUE_WEBHOOKS, values)]

    def unsent_webhooks(self) -> tuple[int, int | None]:
        """Number of webhooks still to be sent, and when the oldest of their jobs ended."""
        query = sa.select(sa.func.count(), sa.func.min(jobs.c.finished_at)).join_from(webhooks, jobs)
        return self.pairs(query.where(webhooks.c.next_at > 0))[0]

    def api_key(self, key_id: str) -> ApiKey | None:
        found = self.rows(sa.select(api_keys).where(api_keys.c.id == key_id))
        return ApiKey(**found[0]) if found else None

    def api_key_by_hash(self, secret_sha256: str) -> ApiKey | None:
        """The key whose secret has this hash, or else the key that had it before its rotation."""
        found = [ApiKey(**row) for row in self.rows(KEY_BY_HASH, {"hash": secret_sha256})]
        return max(found, key=lambda key: key.secret_sha256 == secret_sha256, default=None)

    def api_keys(self) -> list[ApiKey]:
        with self._engine.connect() as connection:
            return read_api_keys(connection)

    def usage(self, key_id: str, now: int) -> Usage:
        with self._engine.connect() as connection:
            return read_usage(connection, key_id, now)

    def spent_today(self, key_id: str, now: int) -> int:
        """What the key has spent today, in nano-dollars."""
        return self.scalar(SPENT, {"row_id": key_id, "day": now // DAY_MS}) or 0

    def spent_by_key(self, now: int) -> dict[str, int]:
        """What keys have spent today, in nano-dollars; those without spending are left out."""
        query = sa.select(spending.c.key_id, spending.c.cost_nano).where(spending.c.day == now // DAY_MS)
        return dict(self.pairs(query))

    def lease_expires_at(self, name: str) -> int | None:
        """When the lease `name` expires, in ms UTC; None when it was never held."""
        return self.scalar(sa.select(leases.c.expires_at).where(leases.c.name == name))  # type: ignore[no-any-return]

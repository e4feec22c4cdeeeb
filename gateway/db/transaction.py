"""Reads and writes inside one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

from common.clock import DAY_MS
from gateway.db.records import ApiKey, Usage
from gateway.db.rows import read_api_keys, read_attempt, read_job, read_usage, to_job, to_webhook
from gateway.db.statements import (
    BEGIN_ATTEMPT,
    FORGET_PARAMS,
    INSERT_JOBS,
    INSERT_PARAMS,
    LEASE,
    LEASED_JOB,
    LOCKED_JOB,
    LOCKED_KEY,
    PARAMS,
    STILL_DUE,
    WAKE,
    due,
    save,
)
from gateway.db.tables import api_keys, attempts, idempotency, jobs, leases, spending, webhooks
from gateway.domain import ids
from gateway.domain import webhooks as hooks
from gateway.domain.attempts import Attempt
from gateway.domain.jobs import Job
from gateway.domain.webhooks import Webhook

Record = TypeVar("Record", Job | None, Attempt | None)


class StaleLease(Exception):
    """The lease was lost: its former holder must discard its result."""


# Called in the transaction that inserts the jobs; returns the reasons for those that must be refused, by job id.
Refuse = Callable[["Transaction", Sequence[Job]], Mapping[str, Exception]]


class Transaction:
    """Reads and writes inside one transaction. Saving a record that was read here writes changed columns only."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._known: dict[str, Mapping[str, Any]] = {}
        self._dialect = sqlite if connection.dialect.name == "sqlite" else postgresql

    def job(self, job_id: str) -> Job | None:
        """The job, locked until this transaction ends."""
        return self._read(read_job(self.connection, LOCKED_JOB, row_id=job_id))

    def attempt(self, attempt_id: str) -> Attempt | None:
        return self._read(read_attempt(self.connection, attempt_id))

    def leased_job(self, job_id: str, token: str) -> Job:
        """The job, if it is still leased under `token`; raises StaleLease otherwise."""
        job = self._read(read_job(self.connection, LEASED_JOB, row_id=job_id, token=token))
        if job is None:
            raise StaleLease(job_id)
        return job

    def add_job(self, job: Job, params: str) -> None:
        insert_jobs(self, [(job, params, None)])

    def add_attempt(self, attempt: Attempt) -> None:
        self.connection.execute(attempts.insert(), dict(vars(attempt)))

    def begin_attempt(self, attempt: Attempt, lease_token: str) -> None:
        """Add the attempt and make it its job's newest.

        Raises StaleLease if `lease_token` is no longer valid, or the job was cancelled in the meantime.
        """
        values = {"attempt_id": attempt.id, "row_id": attempt.job_id, "token": lease_token}
        if self.connection.execute(BEGIN_ATTEMPT, values).rowcount != 1:
            raise StaleLease(attempt.job_id)
        self.add_attempt(attempt)

    def params(self, job_id: str) -> str:
        """The job's params as JSON text, as the client set them."""
        params: str = self.connection.execute(PARAMS, {"row_id": job_id}).scalar_one()
        return params

    def forget_params(self, job_id: str) -> None:
        """Delete the params of a job that has ended: they may be large."""
        self.connection.execute(FORGET_PARAMS, {"row_id": job_id})

    def give_back_pages(self, limit: int) -> int:
        """Return up to `limit` pages of deleted rows to the disk, and their number. PostgreSQL does so by itself."""
        if self._dialect is postgresql:
            return 0
        free: int = self.connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        for _ in range(min(free, limit)):  # Python's module stops after the first page, whatever number it is given
            self.connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
        return min(free, limit)

    def save_job(self, job: Job, lease_token: str | None = None) -> None:
        """Write the columns that have changed since it was read, and create the webhook of a job that has ended.

        Raises StaleLease if `lease_token` is no longer valid.
        """
        if self._save(jobs, job, lease_token) != 1:
            raise StaleLease(job.id)
        if job.finished and job.webhook_url is not None:
            self._insert_webhook(hooks.due(job, job.finished_at or 0))

    def save_attempt(self, attempt: Attempt) -> None:
        """Write the columns that have changed since it was read."""
        self._save(attempts, attempt)

    def _read(self, record: Record) -> Record:
        if record is not None:
            self._known[record.id] = vars(record)
        return record

    def _save(self, table: Table, record: Job | Attempt, lease_token: str | None = None) -> int:
        """Return the number of rows written; 1 if nothing has changed."""
        known, now = self._known.get(record.id, {}), vars(record)
        changed = {name: value for name, value in now.items() if name not in known or known[name] != value}
        changed.pop("id", None)
        self._known[record.id] = now
        if not changed:
            return 1
        query = save(table, frozenset(changed), leased=lease_token is not None)
        return self.connection.execute(query, {**changed, "row_id": record.id, "token": lease_token}).rowcount

    def lock_key(self, key_id: str) -> None:
        """Lock the key until this transaction ends. On SQLite, all writers exclude each other anyway."""
        self.connection.execute(LOCKED_KEY, {"row_id": key_id})

    def usage(self, key_id: str, now: int) -> Usage:
        return read_usage(self.connection, key_id, now)

    def spend(self, key_id: str, cost_nano: int, now: int) -> None:
        """Add the cost of one attempt to what the key has spent today."""
        self.add_up(spending, {"key_id": key_id, "day": now // DAY_MS}, {"cost_nano": cost_nano, "attempts": 1})

    def forget_spending(self, now: int) -> None:
        """Delete the days before today, except each key's newest, from which the cost of an attempt is estimated."""
        newer = spending.alias()
        is_newer = sa.exists().where(newer.c.key_id == spending.c.key_id, newer.c.day > spending.c.day)
        self.connection.execute(spending.delete().where(spending.c.day < now // DAY_MS, is_newer))

    def lease(self, job_ids: list[str], token: str, now: int, until: int) -> list[Job]:
        """Lease those of `job_ids` that are still due, in their order. Skips jobs that another process is writing."""
        rows = self.connection.execute(STILL_DUE, {"ids": job_ids, "now": now}).mappings()
        mine = {row["id"]: to_job(row) for row in rows}
        self.connection.execute(LEASE, {"ids": list(mine), "token": token, "until": until})
        taken: dict[str, Any] = {"lease_token": token, "lease_expires_at": until, "next_at": until}
        return [replace(mine[job_id], **taken) for job_id in job_ids if job_id in mine]

    def webhook(self, job_id: str) -> Webhook | None:
        """The job's webhook, locked until this transaction ends."""
        query = sa.select(webhooks).where(webhooks.c.job_id == job_id).with_for_update()
        row = self.connection.execute(query).mappings().first()
        return to_webhook(row) if row else None

    def lease_webhooks(self, job_ids: list[str], token: str, now: int, until: int) -> list[Webhook]:
        """Lease the webhooks of these jobs that are still due. Skips those that another dispatcher is leasing."""
        still_due = sa.and_(webhooks.c.job_id.in_(job_ids), due(webhooks))
        query = sa.select(webhooks).where(still_due).with_for_update(skip_locked=True)
        mine = [to_webhook(row) for row in self.connection.execute(query, {"now": now}).mappings()]
        taken: dict[str, Any] = {"lease_token": token, "lease_expires_at": until, "next_at": until}
        chosen = webhooks.c.job_id.in_([webhook.job_id for webhook in mine])
        self.connection.execute(webhooks.update().where(chosen).values(taken))
        return [replace(webhook, **taken) for webhook in mine]

    def save_webhook(self, webhook: Webhook, *, lease_token: str | None = None) -> None:
        """Write the webhook. Raises StaleLease if the row no longer has `lease_token`."""
        query = webhooks.update().where(webhooks.c.job_id == webhook.job_id).values(**asdict(webhook))
        if lease_token is not None:
            query = query.where(webhooks.c.lease_token == lease_token)
        if self.connection.execute(query).rowcount != 1:
            raise StaleLease(webhook.job_id)

    def _insert_webhook(self, webhook: Webhook) -> None:
        """Insert the webhook unless the job has one: a job that has ended may be saved again."""
        insert = self._dialect.insert(webhooks).values(**asdict(webhook))
        self.connection.execute(insert.on_conflict_do_nothing(index_elements=["job_id"]))

    def wake_next_waiting(self, now: int, last_key: str = "") -> None:
        """A worker is free: of the key with the fewest running jobs, make the oldest waiting job due at once.

        `last_key` had its turn last: of keys with equally many running jobs, the one after it is next.
        """
        self.connection.execute(WAKE, {"now": now, "last_key": last_key})

    def claim_idempotency_key(
        self, key_id: str, idempotency_key: str, fingerprint: str, job_id: str, *, now: int, after: int
    ) -> tuple[str, str]:
        """Claim the key for `job_id` unless another job has it. Return (fingerprint, job id) of the job that has it.

        A record created at or before `after` has expired. A concurrent transaction for the same key waits here.
        """
        here = {"key_id": key_id, "idempotency_key": idempotency_key}
        record = {**here, "fingerprint": fingerprint, "job_id": job_id, "created_at": now}
        self.upsert(idempotency, record, *here, where=idempotency.c.created_at <= after)
        kept = sa.select(idempotency.c.fingerprint, idempotency.c.job_id).filter_by(**here)
        row = self.connection.execute(kept).one()
        return row[0], row[1]

    def delete_idempotency_keys(self, keys: Collection[tuple[str, str]], until: int) -> int:
        """Delete the records that have not been renewed since `until`. Return their number."""
        key = sa.tuple_(idempotency.c.key_id, idempotency.c.idempotency_key)
        query = idempotency.delete().where(key.in_(keys), idempotency.c.created_at <= until)
        return self.connection.execute(query).rowcount

    def delete_jobs(self, finished_until: int, limit: int) -> int:
        """Delete the oldest jobs that ended at or before `finished_until`, with their attempts. Return their number."""
        # The primary key limits the scan to old rows, because no job ends before it is created. With IS NULL, SQLite
        # would read all jobs that have ended.
        old = sa.and_(jobs.c.id < ids.first("job", finished_until + 1), jobs.c.finished_at <= finished_until)
        over = sa.func.coalesce(jobs.c.next_at, 0) == 0
        oldest = sa.select(jobs.c.id).where(old, over).order_by(jobs.c.id).limit(limit)
        return self.connection.execute(jobs.delete().where(jobs.c.id.in_(oldest))).rowcount

    def api_keys(self) -> list[ApiKey]:
        """All keys, locked until this transaction ends."""
        if self.connection.dialect.name == "postgresql":
            # Row locks cannot cover rows that another gateway is about to insert.
            self.connection.execute(sa.text("LOCK TABLE api_keys IN EXCLUSIVE MODE"))
        return read_api_keys(self.connection)

    def put_api_key(self, key: ApiKey) -> None:
        """Insert the key, or replace the one with its id."""
        self.upsert(api_keys, asdict(key), "id")

    def hold(self, name: str, holder: str, now: int, until: int) -> bool:
        """Take or renew the lease `name`. Return False while another holder has it."""
        free = sa.or_(leases.c.holder == holder, leases.c.expires_at <= now)
        return self.upsert(leases, {"name": name, "holder": holder, "expires_at": until}, "name", where=free)

    def hold_shared(self, name: str, now: int, until: int) -> int:
        """Renew the shared lease `name`. Return since when it has been held continuously, in ms UTC."""
        if not self.hold(name, str(now), now, until):
            self.connection.execute(leases.update().where(leases.c.name == name).values(expires_at=until))
        since = self.connection.execute(sa.select(leases.c.holder).where(leases.c.name == name)).scalar_one()
        return int(since)

    def add_up(
        self,
        table: Table,
        key: Mapping[str, Any],
        amounts: Mapping[str, int],
        where: sa.ColumnElement[bool] | None = None,
    ) -> bool:
        """Insert the row, or add `amounts` to the one with this key if it meets `where`. Return whether it was."""
        added = {name: table.c[name] + amount for name, amount in amounts.items()}
        insert = self._dialect.insert(table).values(**key, **amounts)
        query = insert.on_conflict_do_update(index_elements=list(key), set_=added, where=where)
        return self.connection.execute(query.execution_options(preserve_rowcount=True)).rowcount == 1

    def upsert(
        self, table: Table, values: Mapping[str, Any], *key: str, where: sa.ColumnElement[bool] | None = None
    ) -> bool:
        """Insert the row, or replace the one with this key if it meets `where`. Return whether a row was written."""
        insert = self._dialect.insert(table).values(**values)
        query = insert.on_conflict_do_update(index_elements=key, set_=dict(values), where=where)
        # On PostgreSQL, SQLAlchemy counts the rows of an INSERT only when asked to.
        return self.connection.execute(query.execution_options(preserve_rowcount=True)).rowcount == 1


def insert_jobs(tx: Transaction, made: list[tuple[Job, str, Refuse | None]]) -> list[Exception | None]:
    """Insert the jobs that are not refused; return for each job why it was refused, or None."""
    refused: dict[str, Exception] = {}
    for refuse in dict.fromkeys(refuse for _, _, refuse in made if refuse):
        refused |= refuse(tx, [job for job, _, asked in made if asked == refuse])
    taken = [(job, params) for job, params, _ in made if job.id not in refused]
    if taken:
        tx.connection.execute(INSERT_JOBS, [dict(vars(job)) for job, _ in taken])
        tx.connection.execute(INSERT_PARAMS, [{"job_id": job.id, "params": params} for job, params in taken])
    return [refused.get(job.id) for job, _, _ in made]

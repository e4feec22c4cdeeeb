"""SQL statements, built once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table

from gateway.db.tables import UNFINISHED, UNTRIED, WAITING, api_keys, attempts, job_params, jobs, spending, webhooks
from gateway.domain.jobs import JobStatus


@lru_cache(maxsize=256)
def save(table: Table, columns: frozenset[str], *, leased: bool = False) -> sa.Update:
    """Return the UPDATE of these columns of the row `row_id`; `leased`: only under the lease `token`."""
    changed: dict[str, Any] = {name: sa.bindparam(name) for name in sorted(columns)}
    query = table.update().where(table.c.id == ROW_ID).values(changed)
    return query.where(table.c.lease_token == TOKEN) if leased else query


def due(table: Table) -> sa.ColumnElement[bool]:
    """The condition for rows that are due and not leased."""
    free = sa.or_(table.c.lease_expires_at.is_(None), table.c.lease_expires_at <= NOW)
    return sa.and_(table.c.next_at <= NOW, free)


def usage_of_key() -> sa.Select[Any]:
    """One row: unfinished jobs, size of their params; day, cost and attempts of the newest row of `spending`."""
    size = sa.cast(sa.func.coalesce(sa.func.sum(jobs.c.params_bytes), 0), sa.BigInteger)
    counts = sa.func.count().label("jobs"), size.label("params_bytes")
    unfinished = sa.select(*counts).where(jobs.c.key_id == ROW_ID, UNFINISHED).subquery()
    of_key = sa.select(spending).where(spending.c.key_id == ROW_ID)
    newest = of_key.order_by(spending.c.day.desc()).limit(1).subquery()
    columns = *unfinished.c, newest.c.day, newest.c.cost_nano, newest.c.attempts
    return sa.select(*columns).select_from(unfinished.outerjoin(newest, sa.true()))


# Used by every request, round and step: building a statement takes longer than running it.
ROW_ID: sa.BindParameter[str] = sa.bindparam("row_id")
IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
NOW: sa.BindParameter[int] = sa.bindparam("now", type_=sa.BigInteger)
LIMIT: sa.BindParameter[int] = sa.bindparam("max_rows", type_=sa.Integer)
TOKEN: sa.BindParameter[str] = sa.bindparam("token")
HASH: sa.BindParameter[str] = sa.bindparam("hash")
JOB = sa.select(jobs).where(jobs.c.id == ROW_ID)
INSERT_JOBS, INSERT_PARAMS = jobs.insert(), job_params.insert()
PARAMS = sa.select(job_params.c.params).where(job_params.c.job_id == ROW_ID)
FORGET_PARAMS = job_params.delete().where(job_params.c.job_id == ROW_ID)
LOCKED_JOB = JOB.with_for_update()
LEASED_JOB = LOCKED_JOB.where(jobs.c.lease_token == TOKEN)
BEGIN_ATTEMPT = save(jobs, frozenset({"attempt_id"}), leased=True).where(jobs.c.finished_at.is_(None))
ATTEMPT = sa.select(attempts).where(attempts.c.id == ROW_ID)
KEY_BY_HASH = sa.select(api_keys).where(sa.or_(api_keys.c.secret_sha256 == HASH, api_keys.c.previous_sha256 == HASH))
LOCKED_KEY = sa.select(api_keys.c.id).where(api_keys.c.id == ROW_ID).with_for_update()
SPENT = sa.select(spending.c.cost_nano).where(spending.c.key_id == ROW_ID, spending.c.day == sa.bindparam("day"))
USAGE = usage_of_key()
NOT_KEYS: sa.BindParameter[Any] = sa.bindparam("not_keys", expanding=True)
# Both use an index, so that a few rows can be read without scanning a whole backlog.
DUE_JOBS = sa.select(jobs.c.id, jobs.c.key_id).where(due(jobs), jobs.c.key_id.not_in(NOT_KEYS)).limit(LIMIT)
DUE_JOBS = DUE_JOBS.order_by(jobs.c.next_at, jobs.c.id)
DUE_UNTRIED, DUE_TRIED = DUE_JOBS.where(UNTRIED), DUE_JOBS.where(jobs.c.attempt_id.is_not(None))
NEXT_DUE_AT = sa.select(sa.func.min(jobs.c.next_at))
DUE_WEBHOOKS = (
    sa.select(webhooks.c.job_id, webhooks.c.key_id, webhooks.c.host)
    .where(due(webhooks), webhooks.c.key_id.not_in(NOT_KEYS))
    .where(webhooks.c.host.not_in(sa.bindparam("not_hosts", expanding=True)))
    .order_by(webhooks.c.next_at)
    .limit(LIMIT)
)
STILL_DUE = sa.select(jobs).where(jobs.c.id.in_(IDS), due(jobs)).with_for_update(skip_locked=True)
LEASE = (
    jobs.update()
    .where(jobs.c.id.in_(IDS))
    .values(lease_token=TOKEN, lease_expires_at=sa.bindparam("until"), next_at=sa.bindparam("until"))
)
WAITING_IDLE = sa.and_(jobs.c.status == JobStatus.QUEUED, WAITING, jobs.c.next_at > NOW, jobs.c.lease_token.is_(None))
# Of the key with the fewest running jobs, the oldest. Keys with equally many take turns, in the order of their ids:
# next is the one after LAST_KEY. Skips locked rows: each caller has locked a job, and two callers that wait for each
# other's job would deadlock.
LAST_KEY: sa.BindParameter[str] = sa.bindparam("last_key", type_=sa.String)
_RUNNING = jobs.alias()
_RUNNING_OF_KEY = sa.select(sa.func.count()).where(
    _RUNNING.c.key_id == jobs.c.key_id, _RUNNING.c.status == JobStatus.RUNNING
)
NEXT_WAITING = (
    sa.select(jobs.c.id)
    .where(WAITING_IDLE)
    .order_by(
        _RUNNING_OF_KEY.correlate(jobs).scalar_subquery(),
        sa.case((jobs.c.key_id > LAST_KEY, 0), else_=1),
        jobs.c.key_id,
        jobs.c.id,
    )
    .limit(1)
)
WAKE = (
    jobs.update()
    .where(jobs.c.id == NEXT_WAITING.with_for_update(skip_locked=True, of=jobs).scalar_subquery())
    .values(next_at=NOW)
)

"""Statements that are built once."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table

from gateway.db.tables import _UNFINISHED, _UNTRIED, _WAITING, api_keys, attempts, jobs, spending, webhooks
from gateway.domain.jobs import JobStatus


def _save(table: Table) -> sa.Update:
    """Writes all columns of the row `its_id`."""
    changed: dict[str, Any] = {name: sa.bindparam(name) for name in table.c.keys() if name != "id"}  # noqa: SIM118
    return table.update().where(table.c.id == _ITS_ID).values(changed)


def _due(table: Table) -> sa.ColumnElement[bool]:
    free = sa.or_(table.c.lease_expires_at.is_(None), table.c.lease_expires_at <= _NOW)
    return sa.and_(table.c.next_at <= _NOW, free)


def _usage_of_a_key() -> sa.Select[Any]:
    """One row: unfinished jobs, and day, cost and attempts of the newest row of `spending`."""
    unfinished = sa.select(sa.func.count()).where(jobs.c.key_id == _ITS_ID, _UNFINISHED).scalar_subquery()
    of_key = sa.select(spending).where(spending.c.key_id == _ITS_ID)
    newest = of_key.order_by(spending.c.day.desc()).limit(1).subquery()
    always = sa.select(sa.literal(1).label("one")).subquery()
    columns = unfinished, newest.c.day, newest.c.cost_nano, newest.c.attempts
    return sa.select(*columns).select_from(always.outerjoin(newest, sa.true()))


# What every request, round and step needs, made once: to build a statement takes longer than to run it.
_ITS_ID: sa.BindParameter[str] = sa.bindparam("its_id")
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_NOW: sa.BindParameter[int] = sa.bindparam("now", type_=sa.BigInteger)
_MOST: sa.BindParameter[int] = sa.bindparam("most", type_=sa.Integer)
_TOKEN: sa.BindParameter[str] = sa.bindparam("token")
_HASH: sa.BindParameter[str] = sa.bindparam("hash")
_JOB = sa.select(jobs).where(jobs.c.id == _ITS_ID)
_LOCKED_JOB = _JOB.with_for_update()
_LEASED_JOB = _LOCKED_JOB.where(jobs.c.lease_token == _TOKEN)
_ATTEMPT = sa.select(attempts).where(attempts.c.id == _ITS_ID)
_KEY_BY_HASH = sa.select(api_keys).where(sa.or_(api_keys.c.secret_sha256 == _HASH, api_keys.c.previous_sha256 == _HASH))
_LOCKED_KEY = sa.select(api_keys.c.id).where(api_keys.c.id == _ITS_ID).with_for_update()
_SPENT = sa.select(spending.c.cost_nano).where(spending.c.key_id == _ITS_ID, spending.c.day == sa.bindparam("day"))
_USAGE = _usage_of_a_key()
_SAVE_JOB, _SAVE_ATTEMPT = _save(jobs), _save(attempts)
_SAVE_LEASED_JOB = _SAVE_JOB.where(jobs.c.lease_token == _TOKEN)
# By an index in both cases, so that a backlog is not read whole for the few that are asked for.
_DUE_IDS = sa.select(jobs.c.id).where(_due(jobs)).order_by(jobs.c.next_at, jobs.c.id).limit(_MOST)
_DUE_UNTRIED, _DUE_TRIED = _DUE_IDS.where(_UNTRIED), _DUE_IDS.where(jobs.c.attempt_id.is_not(None))
_NEXT_DUE_AT = sa.select(sa.func.min(jobs.c.next_at))
_DUE_WEBHOOKS = (
    sa.select(webhooks.c.job_id, webhooks.c.host)
    .where(_due(webhooks), webhooks.c.host.not_in(sa.bindparam("not_hosts", expanding=True)))
    .order_by(webhooks.c.next_at)
    .limit(_MOST)
)
_STILL_DUE = sa.select(jobs).where(jobs.c.id.in_(_IDS), _due(jobs)).with_for_update(skip_locked=True)
_LEASE = (
    jobs.update()
    .where(jobs.c.id.in_(_IDS))
    .values(lease_token=_TOKEN, lease_expires_at=sa.bindparam("until"), next_at=sa.bindparam("until"))
)
_WAITING_IDLE = sa.and_(
    jobs.c.status == JobStatus.QUEUED, _WAITING, jobs.c.next_at > _NOW, jobs.c.lease_token.is_(None)
)
# Whoever wakes holds a job of his own: two that wait for each other's would wait for ever.
_OLDEST_WAITING = sa.select(jobs.c.id).where(_WAITING_IDLE).order_by(jobs.c.id).limit(1)
_WAKE = (
    jobs.update()
    .where(jobs.c.id == _OLDEST_WAITING.with_for_update(skip_locked=True).scalar_subquery())
    .values(next_at=_NOW)
)

"""The one truth: tables, and a small interface over them. SQLite by default, PostgreSQL by DATABASE_URL.

Whoever changes something opens `store.transaction()`, reads the records there, asks `gateway.jobs` for new ones and
saves them. Reads outside never wait for writers. The tables of rented machines are in `gateway.instances`.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql, sqlite

from gateway import ids
from gateway import webhooks as hooks
from gateway.jobs import Attempt, Job, State, Status
from gateway.webhooks import Webhook

CONNECT_S = 5
STATEMENT_S = 15
# How long a process that was frozen in a transaction keeps its locks, and a server that fell silent is waited for.
IDLE_S = 30

metadata = sa.MetaData()
_ID = sa.String(40)


class ForeignText(sa.types.TypeDecorator[str]):
    """Text that comes from elsewhere, without the one character that PostgreSQL cannot hold."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value.replace("\0", "") if value else value


jobs = Table(
    "jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("key_id", _ID, nullable=False),
    Column("operation", sa.String(64), nullable=False),
    Column("params", sa.JSON, nullable=False),
    Column("status", sa.String(16), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("queued_at", sa.BigInteger, nullable=False),
    Column("timeout_s", sa.Integer, nullable=False),
    Column("queue_limit_s", sa.Integer, nullable=False),
    Column("request_id", sa.String(64)),
    Column("webhook_url", sa.Text),
    Column("progress", sa.Float, nullable=False),
    Column("started_at", sa.BigInteger),
    Column("finished_at", sa.BigInteger),
    Column("tries", sa.Integer, nullable=False),
    Column("waits", sa.Integer, nullable=False),
    Column("waiting_for", ForeignText),
    Column("attempt_id", _ID),
    Column("output_key", sa.String(255)),
    Column("stats", sa.JSON(none_as_null=True)),
    Column("error_code", sa.String(64)),
    Column("error_message", ForeignText),
    Column("cost_nano", sa.BigInteger),
    Column("next_at", sa.BigInteger),
    Column("lease_token", sa.String(40)),
    Column("lease_expires_at", sa.BigInteger),
    sa.Index("jobs_by_key", "key_id", "id"),
    sa.Index("jobs_due", "next_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("job_id", _ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("provider", sa.String(32), nullable=False),
    Column("state", sa.String(16), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("deadline", sa.BigInteger, nullable=False),
    Column("sent_at", sa.BigInteger),
    Column("remote_id", sa.String(255)),
    Column("claim_id", sa.String(64)),
    Column("claimed_at", sa.BigInteger),
    Column("heard_at", sa.BigInteger),
    Column("ended_at", sa.BigInteger),
    Column("error_code", sa.String(64)),
    Column("error_message", ForeignText),
    Column("running_at", sa.BigInteger),
    Column("cost_nano", sa.BigInteger),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", _ID, primary_key=True),
    Column("idempotency_key", sa.String(255), primary_key=True),
    Column("fingerprint", sa.String(64), nullable=False),
    Column("job_id", _ID, nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", sa.String(200), nullable=False),
    Column("source", sa.String(16), nullable=False),
    Column("prefix", sa.String(16), nullable=False),
    Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("revoked_at", sa.BigInteger),
    Column("webhook_rotations", sa.Integer, nullable=False, server_default="0"),
    Column("webhook_rotated_at", sa.BigInteger),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("job_id", _ID, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("host", sa.String(hooks.MAX_HOST), nullable=False),
    Column("state", sa.String(16), nullable=False),
    Column("tries", sa.Integer, nullable=False),
    Column("last_try_at", sa.BigInteger),
    Column("last_status_code", sa.Integer),
    Column("last_error", sa.Text),
    Column("next_at", sa.BigInteger),
    Column("lease_token", sa.String(40)),
    Column("lease_expires_at", sa.BigInteger),
    sa.Index("webhooks_due", "next_at"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", sa.String(64), primary_key=True),
    Column("holder", sa.String(40), nullable=False),
    Column("expires_at", sa.BigInteger, nullable=False),
)


class StaleLease(Exception):
    """The job, or its webhook, is not leased under this token any more: whoever held it must drop its result."""


@dataclass(frozen=True)
class Unfinished:
    """Jobs that have not ended: how many by status, when the oldest was made, how many should have ended."""

    by_status: Mapping[str, int]
    oldest_at: int | None
    past_limits: int


@dataclass(frozen=True)
class ApiKey:
    """A client's key. The key itself is not stored, only its SHA-256.

    `webhook_rotations`: how often the secret of its webhooks was changed, the last time at `webhook_rotated_at`.
    """

    id: str
    name: str
    source: str
    prefix: str
    secret_sha256: str
    created_at: int
    revoked_at: int | None = None
    webhook_rotations: int = 0
    webhook_rotated_at: int | None = None


def make_engine(url: str, pool_size: int = 40, *, statement_s: int = STATEMENT_S) -> sa.Engine:
    """An engine with the durability that a 202 promises: SQLite waits for the disk at every commit.

    On PostgreSQL a statement, waiting for locks included, ends with an error after `statement_s`; 0 is for ever.
    """
    if not url.startswith("sqlite"):
        idle_s = IDLE_S if statement_s else 0
        limits = {
            "connect_timeout": CONNECT_S,
            "options": f"-c statement_timeout={statement_s}s -c idle_in_transaction_session_timeout={idle_s}s",
            "tcp_user_timeout": IDLE_S * 1000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
        }
        return sa.create_engine(url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True, connect_args=limits)
    engine = sa.create_engine(url, pool_size=pool_size, max_overflow=0, connect_args={"timeout": 10})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun by us, below
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A deferred transaction that reads and then writes fails at once when another one wrote in between.
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


class Store:
    """All tables behind one interface; safe to share between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writing = engine.execution_options(immediate=True)
        # SQLite's own queue of writers is unfair; one lock in front of it is not.
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else nullcontext()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that may write; committed when the block ends well, undone when it raises."""
        with self._write_lock, self._writing.begin() as connection:
            yield Transaction(connection)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """For reads of what other modules keep here."""
        with self._engine.connect() as connection:
            yield connection

    def ping(self) -> None:
        """Raises sqlalchemy's errors when the database does not answer."""
        with self._engine.connect() as connection:
            connection.execute(sa.select(sa.func.count()).select_from(leases))

    def job(self, job_id: str) -> Job | None:
        with self._engine.connect() as connection:
            return _job(connection, jobs.c.id == job_id)

    def jobs_by_id(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Those of the jobs that there are."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(jobs).where(jobs.c.id.in_(job_ids))).mappings()
            return {row["id"]: _to_job(row) for row in rows}

    def unfinished_params(self, containing: str) -> list[str]:
        """Params, as JSON text, of the jobs that are not over and have `containing` in them."""
        text = sa.cast(jobs.c.params, sa.Text)
        # a job has a next look until it is over; for IS NOT NULL SQLite would not use the index
        query = sa.select(text).where(jobs.c.next_at > 0, text.contains(containing, autoescape=True))
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def old_idempotency_keys(self, until: int, limit: int) -> list[tuple[str, str]]:
        """(key id, idempotency key) of records that were made at `until` or before."""
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
        """Those of several jobs, by the job's id, oldest first."""
        query = sa.select(attempts).where(attempts.c.job_id.in_(job_ids)).order_by(attempts.c.id)
        found: dict[str, list[Attempt]] = {}
        with self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                found.setdefault(row["job_id"], []).append(to_attempt(row))
        return found

    def attempt(self, attempt_id: str) -> Attempt | None:
        with self._engine.connect() as connection:
            return _attempt(connection, attempt_id)

    def list_jobs(
        self, key_id: str, *, status: str | None, operation: str | None, before: str | None, limit: int
    ) -> list[Job]:
        """Jobs of one key, newest first, starting behind the job `before`."""
        query = sa.select(jobs).where(jobs.c.key_id == key_id).order_by(jobs.c.id.desc()).limit(limit)
        for column, value in ((jobs.c.status, status), (jobs.c.operation, operation)):
            query = query if value is None else query.where(column == value)
        query = query if before is None else query.where(jobs.c.id < before)
        with self._engine.connect() as connection:
            return [_to_job(row) for row in connection.execute(query).mappings()]

    def due(self, now: int, limit: int) -> list[str]:
        """Ids of jobs that somebody should look at: those that nobody has tried yet first, then the oldest."""
        query = (
            sa.select(jobs.c.id).where(_due(jobs, now)).order_by(jobs.c.attempt_id.is_not(None), jobs.c.id).limit(limit)
        )
        with self._engine.connect() as connection:
            return list(connection.scalars(query))

    def unfinished(self, now: int, margin_ms: int) -> Unfinished:
        """Figures of the jobs that have not ended. `past_limits`: by more than `margin_ms`."""
        open_jobs = jobs.c.status.in_([Status.QUEUED, Status.RUNNING])
        limits_ms = (jobs.c.queue_limit_s + jobs.c.timeout_s) * 1000
        past = sa.case((jobs.c.queued_at + limits_ms + 2 * margin_ms < now, 1), else_=0)
        query = sa.select(jobs.c.status, sa.func.count(), sa.func.min(jobs.c.created_at), sa.func.sum(past))
        with self._engine.connect() as connection:
            rows = connection.execute(query.where(open_jobs).group_by(jobs.c.status)).all()
        return Unfinished(
            {row[0]: row[1] for row in rows}, min((row[2] for row in rows), default=None), sum(row[3] for row in rows)
        )

    def next_due_at(self) -> int | None:
        """When the next job needs a look."""
        with self._engine.connect() as connection:
            next_at: int | None = connection.scalar(sa.select(sa.func.min(jobs.c.next_at)))
            return next_at

    def webhooks(self, job_ids: Collection[str]) -> dict[str, Webhook]:
        """Those of the jobs that have one, by the job's id."""
        query = sa.select(webhooks).where(webhooks.c.job_id.in_(job_ids))
        with self._engine.connect() as connection:
            return {row["job_id"]: _to_webhook(row) for row in connection.execute(query).mappings()}

    def due_webhooks(self, now: int, limit: int, not_hosts: Collection[str]) -> list[tuple[str, str]]:
        """(job id, host) of webhooks that should be sent, those that wait longest first, none to `not_hosts`."""
        query = sa.select(webhooks.c.job_id, webhooks.c.host).where(_due(webhooks, now))
        query = query.where(webhooks.c.host.not_in(not_hosts)).order_by(webhooks.c.next_at).limit(limit)
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(query)]

    def api_key(self, key_id: str) -> ApiKey | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
        return ApiKey(**row) if row else None

    def api_key_by_hash(self, secret_sha256: str) -> ApiKey | None:
        query = sa.select(api_keys).where(api_keys.c.secret_sha256 == secret_sha256)
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return ApiKey(**row) if row else None

    def api_keys(self) -> list[ApiKey]:
        with self._engine.connect() as connection:
            return _api_keys(connection)

    def lease_expires_at(self, name: str) -> int | None:
        """Until when somebody holds the lease `name`; None when nobody ever did."""
        with self._engine.connect() as connection:
            expires_at: int | None = connection.scalar(sa.select(leases.c.expires_at).where(leases.c.name == name))
            return expires_at


class Transaction:
    """What may be read and written inside one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._dialect = sqlite if connection.dialect.name == "sqlite" else postgresql

    def job(self, job_id: str) -> Job | None:
        return _job(self.connection, jobs.c.id == job_id, lock=True)

    def attempt(self, attempt_id: str) -> Attempt | None:
        return _attempt(self.connection, attempt_id)

    def leased_job(self, job_id: str, token: str) -> Job:
        """The job, if it is still leased under `token`; raises StaleLease otherwise."""
        job = _job(self.connection, jobs.c.id == job_id, jobs.c.lease_token == token, lock=True)
        if job is None:
            raise StaleLease(job_id)
        return job

    def add_job(self, job: Job) -> None:
        self.connection.execute(jobs.insert().values(**asdict(job)))

    def add_attempt(self, attempt: Attempt) -> None:
        self.connection.execute(attempts.insert().values(**asdict(attempt)))

    def save_job(self, job: Job, *, lease_token: str | None = None) -> None:
        """Write the job; with `lease_token` only while the row still has it, else StaleLease.

        Every end of a job passes here, so its webhook is made here: whatever ends a job cannot forget it.
        """
        query = jobs.update().where(jobs.c.id == job.id).values(**_changeable(job))
        if lease_token is not None:
            query = query.where(jobs.c.lease_token == lease_token)
        if self.connection.execute(query).rowcount != 1:
            raise StaleLease(job.id)
        if job.finished and job.webhook_url is not None:
            self._insert_webhook(hooks.due(job, job.finished_at or 0))

    def save_attempt(self, attempt: Attempt) -> None:
        query = attempts.update().where(attempts.c.id == attempt.id).values(**_changeable(attempt))
        self.connection.execute(query)

    def lease(self, job_ids: list[str], token: str, now: int, until: int) -> list[Job]:
        """Lease those of `job_ids` that are still due, in their order. What another dispatcher took in between, or
        somebody is writing at this moment, is left out."""
        still_due = (
            sa.select(jobs.c.id).where(jobs.c.id.in_(job_ids), _due(jobs, now)).with_for_update(skip_locked=True)
        )
        mine = set(self.connection.scalars(still_due))
        taken = {"lease_token": token, "lease_expires_at": until, "next_at": until}
        self.connection.execute(jobs.update().where(jobs.c.id.in_(mine)).values(taken))
        return [self.leased_job(job_id, token) for job_id in job_ids if job_id in mine]

    def webhook(self, job_id: str) -> Webhook | None:
        query = sa.select(webhooks).where(webhooks.c.job_id == job_id).with_for_update()
        row = self.connection.execute(query).mappings().first()
        return _to_webhook(row) if row else None

    def lease_webhooks(self, job_ids: list[str], token: str, now: int, until: int) -> list[Webhook]:
        """Lease those that are still due. What another dispatcher takes at this moment is left out, not waited for:
        two that take the same ones in different order would wait for ever."""
        still_due = sa.and_(webhooks.c.job_id.in_(job_ids), _due(webhooks, now))
        query = sa.select(webhooks).where(still_due).with_for_update(skip_locked=True)
        mine = [_to_webhook(row) for row in self.connection.execute(query).mappings()]
        taken: dict[str, Any] = {"lease_token": token, "lease_expires_at": until, "next_at": until}
        chosen = webhooks.c.job_id.in_([webhook.job_id for webhook in mine])
        self.connection.execute(webhooks.update().where(chosen).values(taken))
        return [replace(webhook, **taken) for webhook in mine]

    def save_webhook(self, webhook: Webhook, *, lease_token: str | None = None) -> None:
        """Write the webhook; with `lease_token` only while the row still has it, else StaleLease."""
        query = webhooks.update().where(webhooks.c.job_id == webhook.job_id).values(**asdict(webhook))
        if lease_token is not None:
            query = query.where(webhooks.c.lease_token == lease_token)
        if self.connection.execute(query).rowcount != 1:
            raise StaleLease(webhook.job_id)

    def _insert_webhook(self, webhook: Webhook) -> None:
        """Unless the job has one: a job that has ended may be saved again."""
        insert = self._dialect.insert(webhooks).values(**asdict(webhook))
        self.connection.execute(insert.on_conflict_do_nothing(index_elements=["job_id"]))

    def wake_oldest_waiting(self, now: int) -> None:
        """A worker has become free: the job that has waited longest need not sit out its pause."""
        waiting = sa.and_(jobs.c.status == Status.QUEUED, jobs.c.waits > 0, jobs.c.next_at > now)
        idle = sa.and_(waiting, jobs.c.lease_token.is_(None))
        oldest = sa.select(jobs.c.id).where(idle).order_by(jobs.c.id).limit(1)
        # Whoever calls this holds a job of his own: two that wait for each other's would wait for ever.
        free = oldest.with_for_update(skip_locked=True).scalar_subquery()
        self.connection.execute(jobs.update().where(jobs.c.id == free).values(next_at=now))

    def claim_idempotency_key(
        self, key_id: str, idempotency_key: str, fingerprint: str, job_id: str, *, now: int, after: int
    ) -> tuple[str, str]:
        """Keep the key for `job_id`, unless another job has it; answers (fingerprint, job id) of the one that has it.

        A record made at `after` or before counts for nothing. Of two transactions at once the later one waits here
        for the earlier one's end.
        """
        here = {"key_id": key_id, "idempotency_key": idempotency_key}
        record = {**here, "fingerprint": fingerprint, "job_id": job_id, "created_at": now}
        self.upsert(idempotency, record, *here, where=idempotency.c.created_at <= after)
        kept = sa.select(idempotency.c.fingerprint, idempotency.c.job_id).filter_by(**here)
        row = self.connection.execute(kept).one()
        return row[0], row[1]

    def delete_idempotency_keys(self, keys: Collection[tuple[str, str]], until: int) -> int:
        """Delete those of the records that nobody has taken over since. Answers how many."""
        key = sa.tuple_(idempotency.c.key_id, idempotency.c.idempotency_key)
        query = idempotency.delete().where(key.in_(keys), idempotency.c.created_at <= until)
        return self.connection.execute(query).rowcount

    def delete_jobs(self, finished_until: int, limit: int) -> int:
        """Delete the oldest jobs that ended at `finished_until` or before, with their attempts. Answers how many."""
        # By the primary key, so that only old rows are looked at: nothing ends before it was made. With IS NULL SQLite
        # would rather go through all jobs that are over.
        old = sa.and_(jobs.c.id < ids.first("job", finished_until + 1), jobs.c.finished_at <= finished_until)
        over = sa.func.coalesce(jobs.c.next_at, 0) == 0
        oldest = sa.select(jobs.c.id).where(old, over).order_by(jobs.c.id).limit(limit)
        return self.connection.execute(jobs.delete().where(jobs.c.id.in_(oldest))).rowcount

    def api_keys(self) -> list[ApiKey]:
        """All keys; nobody else changes them before this transaction has ended."""
        if self.connection.dialect.name == "postgresql":
            # Rows cannot be locked that two gateways are about to insert.
            self.connection.execute(sa.text("LOCK TABLE api_keys IN EXCLUSIVE MODE"))
        return _api_keys(self.connection)

    def put_api_key(self, key: ApiKey) -> None:
        """Insert the key, or replace the one with its id."""
        self.upsert(api_keys, asdict(key), "id")

    def hold(self, name: str, holder: str, now: int, until: int) -> bool:
        """Take or renew the lease `name`. False while another holder's has not expired."""
        free = sa.or_(leases.c.holder == holder, leases.c.expires_at <= now)
        return self.upsert(leases, {"name": name, "holder": holder, "expires_at": until}, "name", where=free)

    def upsert(
        self, table: Table, values: Mapping[str, Any], *key: str, where: sa.ColumnElement[bool] | None = None
    ) -> bool:
        """Insert the row, or replace the one with this key if it is as `where` says. Whether one was written."""
        insert = self._dialect.insert(table).values(**values)
        query = insert.on_conflict_do_update(index_elements=key, set_=dict(values), where=where)
        # Of an INSERT, SQLAlchemy keeps the count on PostgreSQL only when it is told to.
        return self.connection.execute(query.execution_options(preserve_rowcount=True)).rowcount == 1


def _due(table: Table, now: int) -> sa.ColumnElement[bool]:
    free = sa.or_(table.c.lease_expires_at.is_(None), table.c.lease_expires_at <= now)
    return sa.and_(table.c.next_at <= now, free)


def _changeable(record: Job | Attempt) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name != "id"}


def _job(connection: sa.Connection, *where: sa.ColumnElement[bool], lock: bool = False) -> Job | None:
    query = sa.select(jobs).where(*where)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    return _to_job(row) if row else None


def _attempt(connection: sa.Connection, attempt_id: str) -> Attempt | None:
    row = connection.execute(sa.select(attempts).where(attempts.c.id == attempt_id)).mappings().first()
    return to_attempt(row) if row else None


def _api_keys(connection: sa.Connection) -> list[ApiKey]:
    return [ApiKey(**row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.id)).mappings()]


def _to_job(row: Mapping[Any, Any]) -> Job:
    return Job(**{**row, "status": Status(row["status"])})


def to_attempt(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(**{**row, "state": State(row["state"])})


def _to_webhook(row: Mapping[Any, Any]) -> Webhook:
    return Webhook(**{**row, "state": hooks.State(row["state"])})

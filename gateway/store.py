"""The one truth: tables, and a small interface over them. SQLite by default, PostgreSQL by DATABASE_URL.

Whoever changes something opens `store.transaction()`, reads the records there, asks `gateway.jobs` for new ones and
saves them. Reads outside never wait for writers. The tables of rented machines are in `gateway.instances`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from gateway import ids
from gateway import webhooks as hooks
from gateway.jobs import Attempt, Job, State, Status
from gateway.webhooks import Webhook

CONNECT_S = 5
STATEMENT_S = 15
# How long a writer of SQLite waits for those of this process, and then for those of others.
BUSY_S = 10
# SQLite's connections: more are no faster, and each keeps its schema, its statements and its cache in memory.
MOST_CONNECTIONS, STATEMENTS, CACHE_KB = 8, 32, 256
_WRITES = "reelay.writes"  # said of a connection: its next transaction will write
# How long a process that was frozen in a transaction keeps its locks, and a server that fell silent is waited for.
IDLE_S = 30
DAY_MS = 86_400_000
# The database as a whole does not work, whatever it was asked.
_OUT_OF_ORDER = sa.exc.OperationalError, sa.exc.TimeoutError, sa.exc.DisconnectionError

metadata = sa.MetaData()
_ID = sa.String(40)


class ForeignText(sa.types.TypeDecorator[str]):
    """Text that comes from elsewhere, without the one character that PostgreSQL cannot hold."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value.replace("\0", "") if value else value


# Conditions of indexes. A query must have them word for word, without parameters.
_UNTRIED = sa.text("attempt_id IS NULL")
_WAITING = sa.text("waits > 0 AND next_at IS NOT NULL")
_UNFINISHED = sa.text("finished_at IS NULL")

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
    sa.Index("jobs_unfinished", "key_id", "finished_at", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    # Small however many jobs there are: most are over, and of the others most are somewhere and wait for their end.
    sa.Index("jobs_untried", "next_at", sqlite_where=_UNTRIED, postgresql_where=_UNTRIED),
    sa.Index("jobs_waiting", "id", sqlite_where=_WAITING, postgresql_where=_WAITING),
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
    Column("scopes", sa.String(64), nullable=False, server_default="jobs,metrics"),
    Column("previous_sha256", sa.String(64)),
    Column("previous_until", sa.BigInteger),
    sa.Index("api_keys_previous", "previous_sha256"),
)

# What the attempts of a key have cost, by the day (UTC, counted from 1970) on which they ended.
spending = Table(
    "spending",
    metadata,
    Column("key_id", _ID, primary_key=True),
    Column("day", sa.Integer, primary_key=True, autoincrement=False),
    Column("cost_nano", sa.BigInteger, nullable=False),
    Column("attempts", sa.Integer, nullable=False),
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
_WAITING_IDLE = sa.and_(jobs.c.status == Status.QUEUED, _WAITING, jobs.c.next_at > _NOW, jobs.c.lease_token.is_(None))
# Whoever wakes holds a job of his own: two that wait for each other's would wait for ever.
_OLDEST_WAITING = sa.select(jobs.c.id).where(_WAITING_IDLE).order_by(jobs.c.id).limit(1)
_WAKE = (
    jobs.update()
    .where(jobs.c.id == _OLDEST_WAITING.with_for_update(skip_locked=True).scalar_subquery())
    .values(next_at=_NOW)
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
    """A client's key. Its secret is not stored, only the SHA-256; `scopes` are words with commas between them.

    `previous_sha256`: of the secret before it, which is valid too until `previous_until`.
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
    scopes: str = ""
    previous_sha256: str | None = None
    previous_until: int | None = None


@dataclass(frozen=True)
class Usage:
    """How many jobs of a key have not ended, and what its attempts have cost, in nano-dollars: those that ended today,
    and one in the mean of the last day on which any did; 0 while nothing is known.
    """

    unfinished: int
    today_nano: int
    mean_nano: int


def brief(error: SQLAlchemyError) -> str:
    """What the database's driver said, on one line, without the statement and its values."""
    return " ".join(str(error.__cause__ or error).split())


def make_engine(
    url: str, pool_size: int = 40, *, statement_s: int = STATEMENT_S, may_create: bool = False
) -> sa.Engine:
    """An engine with the durability that a 202 promises: SQLite waits for the disk at every commit.

    On PostgreSQL a statement, waiting for locks included, ends with an error after `statement_s`; 0 is for ever.
    SQLite's file is made only where `may_create` says so: one that has gone must not be replaced by an empty one.
    """
    # The connection that was used last is the next: in turn, all of them would come to fill their caches.
    pool: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_use_lifo": True}
    if url.startswith("sqlite"):
        return _sqlite(url, pool, may_create)
    return _postgresql(url, pool, statement_s)


def _postgresql(url: str, pool: Mapping[str, Any], statement_s: int) -> sa.Engine:
    idle_s = IDLE_S if statement_s else 0
    # whatever the server's default is: a job is acknowledged when it cannot get lost any more
    durable = "-c synchronous_commit=on"
    ends = f"-c statement_timeout={statement_s}s -c idle_in_transaction_session_timeout={idle_s}s"
    limits = {
        "connect_timeout": CONNECT_S,
        "options": f"{durable} {ends}",
        "tcp_user_timeout": IDLE_S * 1000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
    }
    return sa.create_engine(url, **pool, pool_pre_ping=True, connect_args=limits)


def _sqlite(url: str, pool: Mapping[str, Any], may_create: bool) -> sa.Engine:
    pool = {**pool, "pool_size": min(pool["pool_size"], MOST_CONNECTIONS), "pool_timeout": BUSY_S}
    engine = sa.create_engine(url, **pool, connect_args={"timeout": BUSY_S, "cached_statements": STATEMENTS})
    path = Path(engine.url.database or "")

    @sa.event.listens_for(engine, "do_connect")
    def _must_exist(*_: Any) -> None:
        if not may_create and _file(path) is None:
            raise sqlite3.OperationalError("the database's file is not there")

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions are begun by us, below
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # of each connection, up to 2 MB otherwise; the system keeps the file in memory once for all of them
        connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        record.info["file"] = _file(path)

    @sa.event.listens_for(engine, "checkout")
    def _same_file(connection: Any, record: Any, _: Any) -> None:
        # SQLite would go on writing to a file that was moved away or removed, and nobody would find it again.
        if _file(path) != record.info["file"]:
            raise sa.exc.DisconnectionError("the database's file is another one now")

    # An event for it would cost every read a third of its time.
    engine.dialect.do_begin = _begin  # type: ignore[method-assign]
    return engine


def _begin(dbapi_connection: Any) -> None:
    # A deferred transaction that reads and then writes fails at once when another one wrote in between.
    dbapi_connection.execute("BEGIN IMMEDIATE" if dbapi_connection.info.pop(_WRITES, False) else "BEGIN")


def _file(path: Path) -> tuple[int, int] | None:
    """What tells the file at `path` from another one that took its name; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# Asked in the transaction that inserts these jobs: which of them must not be made, by their ids, and why.
Refuse = Callable[["Transaction", Sequence[Job]], Mapping[str, Exception]]
T = TypeVar("T")


@dataclass(eq=False)
class _Work:
    """Waits to be written together with others: `do` is given the items of all that want the same done.

    `woken`: it has been done, or else its thread is the next that writes.
    """

    do: Callable[[Transaction, list[Any]], Sequence[Any]]
    item: Any
    writes: bool = False
    woken: threading.Event = field(default_factory=threading.Event)
    answer: Any = None
    error: BaseException | None = None


class Store:
    """All tables behind one interface; safe to share between threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else None
        # Those that wait to be written together, and whether one of them is about to do it.
        self._arrived: deque[_Work] = deque()
        self._led, self._line = False, threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that may write; committed when the block ends well, undone when it raises."""
        with self._turn(), self._writing() as connection:
            yield Transaction(connection)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            connection.info[_WRITES] = True
            with connection.begin():
                yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite's own queue of writers is unfair; one lock in front of it is not. Raises sqlalchemy's TimeoutError."""
        if self._write_lock is None:
            yield
            return
        if not self._write_lock.acquire(timeout=BUSY_S):
            raise sa.exc.TimeoutError(f"another thread has been writing for {BUSY_S} s")
        try:
            yield
        finally:
            self._write_lock.release()

    def together(self, work: Callable[[Transaction], T]) -> T:
        """What `work` answers inside a transaction, once that is committed. Those that come while somebody writes share
        one commit.

        When one of them raises all are undone and each is done again alone: `work` only reads and writes there.
        """
        answer: T = self._share(_each, work)
        return answer

    def add_job(self, job: Job, refuse: Refuse | None = None) -> None:
        """Insert the job and commit, together with others. Raises what `refuse` has against it."""
        refused: Exception | None = self._share(_insert_jobs, (job, refuse))
        if refused is not None:
            raise refused

    def _share(self, do: Callable[[Transaction, list[Any]], Sequence[Any]], item: Any) -> Any:
        mine = _Work(do, item)
        if self._write_lock is None:
            self._carry_out([mine])  # PostgreSQL takes many writers at once
        else:
            with self._line:
                self._arrived.append(mine)
                mine.writes, self._led = not self._led, True
            if not mine.writes:
                mine.woken.wait()
            if mine.writes:
                self._write_arrived()
        if mine.error is not None:
            raise mine.error
        return mine.answer

    def _write_arrived(self) -> None:
        """All in one; then whoever came first meanwhile does the same. Who was done waits for no lock any more."""
        batch: list[_Work] = []
        try:
            with self._turn():
                batch = self._take_arrived()
                self._carry_out(batch)
        except BaseException as error:
            # nobody may write a job whose client has been told that it was not taken
            batch = batch or self._take_arrived()
            for work in batch:
                work.error = error
        finally:
            with self._line:
                heir = self._arrived[0] if self._arrived else None
                self._led = heir is not None
            for work in batch:
                work.woken.set()
            if heir is not None:
                heir.writes = True
                heir.woken.set()

    def _take_arrived(self) -> list[_Work]:
        with self._line:
            batch = list(self._arrived)
            self._arrived.clear()
            return batch

    def _carry_out(self, batch: list[_Work]) -> None:
        try:
            with self._writing() as connection:
                for do in dict.fromkeys(work.do for work in batch):
                    alike = [work for work in batch if work.do is do]
                    answers = do(Transaction(connection), [work.item for work in alike])
                    for work, answer in zip(alike, answers, strict=True):
                        work.answer = answer
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, _OUT_OF_ORDER):
                for one in batch:  # whichever it was, the others are not to blame
                    self._carry_out([one])
                return
            for work in batch:
                work.error = error

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
            return _job(connection, _JOB, its_id=job_id)

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

    def due(self, now: int, limit: int, untried: int | None = None) -> list[str]:
        """Ids of jobs that somebody should look at: those that nobody has tried yet first, then the most overdue.

        `untried`: at most so many of the first kind.
        """
        most = limit if untried is None else min(limit, untried)
        with self._engine.connect() as connection:
            found = list(connection.scalars(_DUE_UNTRIED, {"now": now, "most": most}))
            if len(found) < limit:
                found += connection.scalars(_DUE_TRIED, {"now": now, "most": limit - len(found)})
            return found

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
            next_at: int | None = connection.scalar(_NEXT_DUE_AT)
            return next_at

    def webhooks(self, job_ids: Collection[str]) -> dict[str, Webhook]:
        """Those of the jobs that have one, by the job's id."""
        query = sa.select(webhooks).where(webhooks.c.job_id.in_(job_ids))
        with self._engine.connect() as connection:
            return {row["job_id"]: _to_webhook(row) for row in connection.execute(query).mappings()}

    def due_webhooks(self, now: int, limit: int, not_hosts: Collection[str]) -> list[tuple[str, str]]:
        """(job id, host) of webhooks that should be sent, those that wait longest first, none to `not_hosts`."""
        asked = {"now": now, "most": limit, "not_hosts": list(not_hosts)}
        with self._engine.connect() as connection:
            return [(row[0], row[1]) for row in connection.execute(_DUE_WEBHOOKS, asked)]

    def unsent_webhooks(self) -> tuple[int, int | None]:
        """How many are still to be sent, and when the oldest of their jobs ended."""
        query = sa.select(sa.func.count(), sa.func.min(jobs.c.finished_at)).join_from(webhooks, jobs)
        with self._engine.connect() as connection:
            count, oldest_at = connection.execute(query.where(webhooks.c.next_at > 0)).one()
            return count, oldest_at

    def api_key(self, key_id: str) -> ApiKey | None:
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(api_keys).where(api_keys.c.id == key_id)).mappings().first()
        return ApiKey(**row) if row else None

    def api_key_by_hash(self, secret_sha256: str) -> ApiKey | None:
        """The key that has the secret with this hash, or else the one that had it before its rotation."""
        with self._engine.connect() as connection:
            found = [ApiKey(**row) for row in connection.execute(_KEY_BY_HASH, {"hash": secret_sha256}).mappings()]
        return max(found, key=lambda key: key.secret_sha256 == secret_sha256, default=None)

    def api_keys(self) -> list[ApiKey]:
        with self._engine.connect() as connection:
            return _api_keys(connection)

    def usage(self, key_id: str, now: int) -> Usage:
        with self._engine.connect() as connection:
            return _usage(connection, key_id, now)

    def spent_today(self, key_id: str, now: int) -> int:
        """Nano-dollars."""
        with self._engine.connect() as connection:
            return connection.scalar(_SPENT, {"its_id": key_id, "day": now // DAY_MS}) or 0

    def spent_by_key(self, now: int) -> dict[str, int]:
        """Nano-dollars of today, of the keys that have spent any."""
        query = sa.select(spending.c.key_id, spending.c.cost_nano).where(spending.c.day == now // DAY_MS)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

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
        return _job(self.connection, _LOCKED_JOB, its_id=job_id)

    def attempt(self, attempt_id: str) -> Attempt | None:
        return _attempt(self.connection, attempt_id)

    def leased_job(self, job_id: str, token: str) -> Job:
        """The job, if it is still leased under `token`; raises StaleLease otherwise."""
        job = _job(self.connection, _LEASED_JOB, its_id=job_id, token=token)
        if job is None:
            raise StaleLease(job_id)
        return job

    def add_job(self, job: Job) -> None:
        self.connection.execute(jobs.insert(), dict(vars(job)))

    def add_attempt(self, attempt: Attempt) -> None:
        self.connection.execute(attempts.insert(), dict(vars(attempt)))

    def save_job(self, job: Job, *, lease_token: str | None = None) -> None:
        """Write the job; with `lease_token` only while the row still has it, else StaleLease.

        Every end of a job passes here, so its webhook is made here: whatever ends a job cannot forget it.
        """
        query = _SAVE_JOB if lease_token is None else _SAVE_LEASED_JOB
        if self.connection.execute(query, {**_changeable(job), "its_id": job.id, "token": lease_token}).rowcount != 1:
            raise StaleLease(job.id)
        if job.finished and job.webhook_url is not None:
            self._insert_webhook(hooks.due(job, job.finished_at or 0))

    def lock_key(self, key_id: str) -> None:
        """Whoever else calls this for the key waits for this transaction's end. On SQLite all writers do."""
        self.connection.execute(_LOCKED_KEY, {"its_id": key_id})

    def usage(self, key_id: str, now: int) -> Usage:
        return _usage(self.connection, key_id, now)

    def spend(self, key_id: str, cost_nano: int, now: int) -> None:
        """An attempt of the key has cost so much."""
        row = {"key_id": key_id, "day": now // DAY_MS, "cost_nano": cost_nano, "attempts": 1}
        insert = self._dialect.insert(spending).values(**row)
        added = {name: spending.c[name] + row[name] for name in ("cost_nano", "attempts")}
        self.connection.execute(insert.on_conflict_do_update(index_elements=["key_id", "day"], set_=added))

    def forget_spending(self, now: int) -> None:
        """Delete the days before today, but each key's newest, which tells what an attempt of its costs."""
        newer = spending.alias()
        is_newer = sa.exists().where(newer.c.key_id == spending.c.key_id, newer.c.day > spending.c.day)
        self.connection.execute(spending.delete().where(spending.c.day < now // DAY_MS, is_newer))

    def save_attempt(self, attempt: Attempt) -> None:
        self.connection.execute(_SAVE_ATTEMPT, {**_changeable(attempt), "its_id": attempt.id})

    def lease(self, job_ids: list[str], token: str, now: int, until: int) -> list[Job]:
        """Lease those of `job_ids` that are still due, in their order. What another dispatcher took in between, or
        somebody is writing at this moment, is left out."""
        rows = self.connection.execute(_STILL_DUE, {"ids": job_ids, "now": now}).mappings()
        mine = {row["id"]: _to_job(row) for row in rows}
        self.connection.execute(_LEASE, {"ids": list(mine), "token": token, "until": until})
        taken: dict[str, Any] = {"lease_token": token, "lease_expires_at": until, "next_at": until}
        return [replace(mine[job_id], **taken) for job_id in job_ids if job_id in mine]

    def webhook(self, job_id: str) -> Webhook | None:
        query = sa.select(webhooks).where(webhooks.c.job_id == job_id).with_for_update()
        row = self.connection.execute(query).mappings().first()
        return _to_webhook(row) if row else None

    def lease_webhooks(self, job_ids: list[str], token: str, now: int, until: int) -> list[Webhook]:
        """Lease those that are still due. What another dispatcher takes at this moment is left out, not waited for:
        two that take the same ones in different order would wait for ever."""
        still_due = sa.and_(webhooks.c.job_id.in_(job_ids), _due(webhooks))
        query = sa.select(webhooks).where(still_due).with_for_update(skip_locked=True)
        mine = [_to_webhook(row) for row in self.connection.execute(query, {"now": now}).mappings()]
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
        self.connection.execute(_WAKE, {"now": now})

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

    def hold_on(self, name: str, now: int, until: int) -> int:
        """Renew the lease `name`, which is whoever's; answers since when it has been held without a gap."""
        if not self.hold(name, str(now), now, until):
            self.connection.execute(leases.update().where(leases.c.name == name).values(expires_at=until))
        since = self.connection.execute(sa.select(leases.c.holder).where(leases.c.name == name)).scalar_one()
        return int(since)

    def upsert(
        self, table: Table, values: Mapping[str, Any], *key: str, where: sa.ColumnElement[bool] | None = None
    ) -> bool:
        """Insert the row, or replace the one with this key if it is as `where` says. Whether one was written."""
        insert = self._dialect.insert(table).values(**values)
        query = insert.on_conflict_do_update(index_elements=key, set_=dict(values), where=where)
        # Of an INSERT, SQLAlchemy keeps the count on PostgreSQL only when it is told to.
        return self.connection.execute(query.execution_options(preserve_rowcount=True)).rowcount == 1


def _each(tx: Transaction, works: list[Callable[[Transaction], Any]]) -> list[Any]:
    return [work(tx) for work in works]


def _insert_jobs(tx: Transaction, made: list[tuple[Job, Refuse | None]]) -> list[Exception | None]:
    """Insert the jobs that nobody refuses; for each of all what it was refused for."""
    refused: dict[str, Exception] = {}
    for refuse in dict.fromkeys(refuse for _, refuse in made if refuse):
        refused |= refuse(tx, [job for job, asked in made if asked == refuse])
    rows = [dict(vars(job)) for job, _ in made if job.id not in refused]
    if rows:
        tx.connection.execute(jobs.insert(), rows)
    return [refused.get(job.id) for job, _ in made]


def _changeable(record: Job | Attempt) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name != "id"}


def _job(connection: sa.Connection, query: sa.Select[Any], **which: str) -> Job | None:
    row = connection.execute(query, which).mappings().first()
    return _to_job(row) if row else None


def _attempt(connection: sa.Connection, attempt_id: str) -> Attempt | None:
    row = connection.execute(_ATTEMPT, {"its_id": attempt_id}).mappings().first()
    return to_attempt(row) if row else None


def _api_keys(connection: sa.Connection) -> list[ApiKey]:
    return [ApiKey(**row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.id)).mappings()]


def _usage(connection: sa.Connection, key_id: str, now: int) -> Usage:
    unfinished, day, cost_nano, ended = connection.execute(_USAGE, {"its_id": key_id}).one()
    if not ended:
        return Usage(unfinished, 0, 0)
    return Usage(unfinished, cost_nano if day == now // DAY_MS else 0, cost_nano // ended)


def _to_job(row: Mapping[Any, Any]) -> Job:
    return Job(**{**row, "status": Status(row["status"])})


def to_attempt(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(**{**row, "state": State(row["state"])})


def _to_webhook(row: Mapping[Any, Any]) -> Webhook:
    return Webhook(**{**row, "state": hooks.State(row["state"])})

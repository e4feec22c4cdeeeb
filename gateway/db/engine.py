"""Engines for SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

CONNECT_S = 5
STATEMENT_S = 15
# How long a writer of SQLite waits, first for this process's writers and then for those of others.
BUSY_S = 10
# SQLite's connections: more are no faster, and each keeps a schema, statements and a cache in memory.
MOST_CONNECTIONS, STATEMENTS, CACHE_KB = 8, 32, 256
WRITES = "reelay.writes"  # key of a connection's info: its next transaction will write
# How long a process that is frozen in a transaction keeps its locks, and how long a silent server is waited for.
IDLE_S = 30


def brief(error: SQLAlchemyError) -> str:
    """Return what the database's driver said, on one line, without the statement and its values."""
    return " ".join(str(error.__cause__ or error).split())


def make_engine(
    url: str, pool_size: int = 40, *, statement_s: int = STATEMENT_S, may_create: bool = False
) -> sa.Engine:
    """Return an engine with the durability that a 202 promises: SQLite waits for the disk at every commit.

    On PostgreSQL a statement, waiting for locks included, ends with an error after `statement_s`; 0 is for ever.
    SQLite's file is made only where `may_create` says so: one that has gone must not be replaced by an empty one.
    """
    # The connection that was used last is used next: in turn, all of them would fill their caches.
    pool: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_use_lifo": True}
    if url.startswith("sqlite"):
        return _sqlite(url, pool, may_create)
    return _postgresql(url, pool, statement_s)


def _postgresql(url: str, pool: Mapping[str, Any], statement_s: int) -> sa.Engine:
    idle_s = IDLE_S if statement_s else 0
    # Whatever the server's default: a job is acknowledged once it cannot be lost any more.
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
        connection.isolation_level = None  # _begin begins transactions
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # Of each connection, up to 2 MB otherwise; the system caches the file once for all of them.
        connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        record.info["file"] = _file(path)

    @sa.event.listens_for(engine, "checkout")
    def _same_file(connection: Any, record: Any, _: Any) -> None:
        # SQLite would go on writing to a file that was moved or removed, where it is lost.
        if _file(path) != record.info["file"]:
            raise sa.exc.DisconnectionError("the database's file is another one now")

    # Replaced, because an event handler would cost every read a third of its time.
    engine.dialect.do_begin = _begin  # type: ignore[method-assign]
    return engine


def _begin(dbapi_connection: Any) -> None:
    # A deferred transaction that reads and then writes fails at once when another one wrote in between.
    dbapi_connection.execute("BEGIN IMMEDIATE" if dbapi_connection.info.pop(WRITES, False) else "BEGIN")


def _file(path: Path) -> tuple[int, int] | None:
    """Return what identifies the file at `path`, even if another one takes its name; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

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
# How long a writer waits on SQLite: first for other writers of this process, then for those of other processes.
BUSY_S = 10
# Maximum number of SQLite connections: more are not faster, and each keeps schema, statements and cache in memory.
MAX_CONNECTIONS, STATEMENTS, CACHE_KB = 8, 32, 256
# Keys in a connection's `info`: its next transaction will write; it has read a damaged page.
WRITES, DAMAGED = "reelay.writes", "reelay.damaged"
# How long a process that froze inside a transaction keeps its locks, and how long to wait for a silent server.
IDLE_S = 30


def brief(error: SQLAlchemyError) -> str:
    """Return the driver's error message on one line, without the statement and its parameters."""
    return " ".join(str(error.__cause__ or error).split())


def outside_transaction(connection: sa.Connection, statement: str) -> None:
    """Run a statement that SQLite refuses inside a transaction. Raises sqlalchemy's OperationalError."""
    try:
        connection.connection.cursor().execute(statement)
    except sqlite3.OperationalError as error:
        raise sa.exc.OperationalError(statement, {}, error) from error


def make_engine(
    url: str, pool_size: int = 40, *, statement_s: int = STATEMENT_S, may_create: bool = False
) -> sa.Engine:
    """Return an engine with the durability that a 202 promises: SQLite waits for the disk at every commit.

    On PostgreSQL a statement, including its wait for locks, fails after `statement_s`; 0 means no limit. SQLite's file
    is created only with `may_create`: a file that has disappeared must not be replaced by an empty one.
    """
    # Last in, first out: with round robin, every connection would fill its cache.
    pool: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 0, "pool_use_lifo": True}
    if url.startswith("sqlite"):
        return _sqlite(url, pool, may_create)
    return _postgresql(url, pool, statement_s)


def _postgresql(url: str, pool: Mapping[str, Any], statement_s: int) -> sa.Engine:
    idle_s = IDLE_S if statement_s else 0
    # Whatever the server's default: an acknowledged job must not be lost.
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
    pool = {**pool, "pool_size": min(pool["pool_size"], MAX_CONNECTIONS), "pool_timeout": BUSY_S}
    engine = sa.create_engine(url, **pool, connect_args={"timeout": BUSY_S, "cached_statements": STATEMENTS})
    path = Path(engine.url.database or "")

    @sa.event.listens_for(engine, "do_connect")
    def _must_exist(*_: Any) -> None:
        if not may_create and _file(path) is None:
            raise sqlite3.OperationalError("the database file does not exist")

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # _begin begins transactions
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # Debian's default overwrites the pages of deleted params, which takes as much of the journal as they had.
        connection.execute("PRAGMA secure_delete=FAST")
        # Per connection; the default is 2 MB. The operating system caches the file once for all of them.
        connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        record.info["file"] = _file(path)

    @sa.event.listens_for(engine, "handle_error")
    def _note_damage(context: Any) -> None:
        # Only a damaged file raises the base class.
        if type(context.original_exception) is sqlite3.DatabaseError and context.connection is not None:
            context.connection.info[DAMAGED] = True

    @sa.event.listens_for(engine, "checkout")
    def _usable(connection: Any, record: Any, _: Any) -> None:
        # SQLite would keep writing to a file that was moved or removed, and the data would be lost.
        if _file(path) != record.info["file"]:
            raise sa.exc.DisconnectionError("the database file was replaced by another one")
        # Its cache would serve the damaged page until the next commit, even if the file has been repaired. Closing the
        # connection would not do: the last one that closes writes the WAL into the damaged file and removes it.
        if record.info.pop(DAMAGED, False):
            connection.execute("PRAGMA shrink_memory")

    # Replaced: an event handler would take a third of the time of every read.
    engine.dialect.do_begin = _begin  # type: ignore[method-assign]
    return engine


def _begin(dbapi_connection: Any) -> None:
    # A deferred transaction that reads and then writes fails immediately if another one wrote in between. Whatever else
    # is done on a connection is one statement. It needs no transaction, whose begin and end would give Python's lock to
    # other threads six times, each of which may keep it for as long as a thread may.
    if dbapi_connection.info.pop(WRITES, False):
        dbapi_connection.execute("BEGIN IMMEDIATE")


def _file(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of the file at `path`, or None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino

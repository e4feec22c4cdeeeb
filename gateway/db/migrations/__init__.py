"""Migrations of the database's schema. They only add, so that release N−1 still runs on the schema of release N."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from gateway.db.engine import WRITES, make_engine, outside_transaction
from gateway.db.reserve import Reserve
from gateway.settings import Settings

_LOCK_NUMBER = 7_302_533  # arbitrary but fixed: PostgreSQL's advisory locks are numbered


def migrate(settings: Settings) -> None:
    """Bring the database to this release's schema; any number of processes may call it at once."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    # No time limit: another process may hold the lock for long, and migrating a large table takes time.
    engine = make_engine(settings.database, pool_size=2, statement_s=0, may_create=True)
    try:
        with _locked(settings, engine):
            try:
                _upgrade(engine)
            except DBAPIError as error:
                if not Reserve.of(engine).give_up(error):
                    raise
                _upgrade(engine)  # with the space that is kept for a full disk
    finally:
        engine.dispose()


def _upgrade(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            # Stored in the file, the first one only if it is new: deleted rows then give their space back.
            # Processes that switch a new file at the same time get "database is locked".
            outside_transaction(connection, "PRAGMA auto_vacuum=INCREMENTAL")
            outside_transaction(connection, "PRAGMA journal_mode=WAL")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.connect() as connection:
        connection.info[WRITES] = True
        with connection.begin():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def _locked(settings: Settings, engine: sa.Engine) -> Iterator[None]:
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(_LOCK_NUMBER)))
            yield
        return
    with (settings.data_dir / ".migrate.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

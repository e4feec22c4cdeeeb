"""Migrating: from nothing, again, and by many at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gateway.db.engine import make_engine
from gateway.db.migrations import migrate
from gateway.db.tables import metadata
from gateway.settings import Settings
from tests.gateway.conftest import PROCESSES, SECRET_KEY, on_every_database
from tests.postgres import Postgres


def settings_in(folder: Path, url: str | None = None) -> Settings:
    return Settings(providers=("local",), secret_key=(SECRET_KEY,), data_dir=folder, database_url=url)


def migrate_in(folder: str, url: str | None = None) -> None:
    migrate(settings_in(Path(folder), url))


@on_every_database
def test_the_migrated_schema_is_the_one_the_code_uses(database: str) -> None:
    engine = make_engine(database, pool_size=1)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_makes_the_folder_and_switches_to_wal_for_good(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "new" / "data")
    migrate(settings)
    with closing(sqlite3.connect(settings.data_dir / "reelay.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_migrating_again_keeps_what_is_there(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    migrate(settings)
    engine = make_engine(settings.database, pool_size=1)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO leases VALUES ('x', 'h', 1)"))
    migrate(settings)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT holder FROM leases")) == "h"
    engine.dispose()


def test_a_folder_with_percent_and_space_in_its_name_is_migrated(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "50% data")
    migrate(settings)
    assert (settings.data_dir / "reelay.db").exists()


def test_thirty_processes_may_migrate_a_fresh_file_at_once(tmp_path: Path) -> None:
    with PROCESSES.Pool(30) as pool:
        pool.map(migrate_in, [str(tmp_path)] * 30, chunksize=1)
        pool.close()
        pool.join()
    with closing(sqlite3.connect(tmp_path / "reelay.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_machines_may_migrate_a_fresh_database_of_postgresql_at_once(tmp_path: Path, postgres: Postgres) -> None:
    with postgres.database() as url:
        with PROCESSES.Pool(6) as pool:
            pool.starmap(migrate_in, [(str(tmp_path / str(n)), url) for n in range(6)], chunksize=1)
            pool.close()
            pool.join()
        engine = make_engine(url, pool_size=1)
        with engine.connect() as connection:
            assert len(connection.execute(sa.text("SELECT version_num FROM alembic_version")).all()) == 1
        engine.dispose()

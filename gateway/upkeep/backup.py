"""`flask --app gateway backup FILE`: a consistent copy of the SQLite database while the gateway runs."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from gateway.wiring import services


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@with_appcontext
def command(file: Path) -> None:
    """Copy the database to FILE, replacing it atomically, while the gateway runs."""
    url = sa.make_url(services().settings.database)
    if not url.drivername.startswith("sqlite") or not url.database:
        raise click.ClickException("The database is not SQLite; use its own tools, pg_dump for PostgreSQL.")
    if not Path(url.database).exists():
        raise click.ClickException("There is no database yet.")
    try:
        copy(Path(url.database), file)
    except (OSError, sqlite3.Error) as error:
        raise click.ClickException(f"{file} could not be written: {error}.") from error
    click.echo(f"{file}: {file.stat().st_size} bytes")


def copy(database: Path, file: Path) -> None:
    """Make a consistent copy of `database` while other processes write to it. Raises OSError and sqlite3.Error."""
    part = file.with_name(f".{file.name}.part-{os.getpid()}")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)  # all pages in one step, which in WAL mode blocks no writer and never restarts
            (state,) = target.execute("PRAGMA integrity_check").fetchone()
            if state != "ok":
                raise sqlite3.DatabaseError(f"the copy is damaged: {state}")
            target.execute("PRAGMA journal_mode = DELETE")  # one file, not three
        with part.open("rb") as copied:
            os.fsync(copied.fileno())
        part.replace(file)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()

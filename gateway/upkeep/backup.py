"""`flask --app gateway backup FILE`: a whole copy of the SQLite database, made while the gateway goes on."""

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
    """Copy the database to FILE as it is at this moment; the gateway goes on. FILE is replaced, whole or not at all."""
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
    """Copy `database`, which others may be writing to, as of one moment. Raises OSError and sqlite3.Error."""
    part = file.with_name(f".{file.name}.part-{os.getpid()}")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)  # all pages in one step: in WAL nobody waits for it, and it never begins anew
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

"""`flask --app gateway backup FILE`: a consistent copy of the SQLite database while the gateway runs."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from glob import escape
from math import prod
from pathlib import Path

import click
import sqlalchemy as sa
from flask.cli import with_appcontext

from gateway.storage import kept_free
from gateway.storage.local import sync_folder
from gateway.wiring import services

# An unfinished copy that has not grown for this long is a leftover.
LEFTOVER_S = 3600


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
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = " The previous copy is unchanged." if file.exists() else ""
        raise click.ClickException(f"{file} could not be written: {reason}.{kept}") from error
    click.echo(f"{file}: {file.stat().st_size} bytes")


def copy(database: Path, file: Path) -> None:
    """Make a consistent copy of `database` while other processes write to it. Raises OSError and sqlite3.Error."""
    prefix = f".{file.name}.part-"
    for path in file.parent.glob(f"{escape(prefix)}*"):  # of backups that were killed
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFTOVER_S:
                path.unlink()
    part = file.with_name(f"{prefix}{os.getpid()}")
    with closing(sqlite3.connect(database)) as source:
        _check_room(source, file.parent)
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            with closing(sqlite3.connect(part)) as target:
                source.backup(target)  # all pages in one step, which in WAL mode blocks no writer and never restarts
                (state,) = target.execute("PRAGMA integrity_check").fetchone()
                if state != "ok":
                    raise sqlite3.DatabaseError(f"the copy is damaged: {state}")
                target.execute("PRAGMA journal_mode = DELETE")  # one file, not three
            with part.open("rb") as copied:
                os.fsync(copied.fileno())
            part.replace(file)
            sync_folder(file.parent)
        finally:
            for journal in ("", "-journal", "-wal", "-shm"):
                Path(f"{part}{journal}").unlink(missing_ok=True)


def _check_room(source: sqlite3.Connection, folder: Path) -> None:
    """Raise OSError if the copy would take the space that the gateway needs to go on, should it use this disk."""
    needed = prod(source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    usage = shutil.disk_usage(folder)
    free = max(0, usage.free - kept_free(usage.total))
    if needed > free:
        raise OSError(errno.ENOSPC, f"the disk has room for {free} bytes, and the copy needs {needed}")

"""PostgreSQL for tests: Debian's package on loopback, with a temporary data folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from scripts.stack import free_port

START_S = 30
# Syncing is slow, and no test cuts the power.
QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=200", "shared_buffers=32MB")


class Postgres:
    """A server, run by `command` in `folder`."""

    def __init__(self, port: int, command: Sequence[str | Path], folder: Path) -> None:
        self.port = port
        self._command, self._folder = command, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        """Start it; return when it responds."""
        path = self._folder / "log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        _wait_until_it_answers(self, self._process, path)

    def stop(self) -> None:
        """Stop it at once, and cut all connections."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, empty or a copy of `template`, which is dropped at the end."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield f"postgresql+psycopg://tests@127.0.0.1:{self.port}/{name}"
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with closing(psycopg.connect(host="127.0.0.1", port=self.port, user="tests", dbname="postgres")) as connection:
            connection.autocommit = True
            connection.execute(statement)  # type: ignore[call-overload]


def programs() -> Path:
    """The folder of `initdb` and `postgres`. Skips the test where they are missing, or fails with CI set."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    there = shutil.which("initdb") if not found else str(found[-1])
    if there:
        return Path(there).resolve().parent
    reason = "PostgreSQL is missing; on Debian: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """A server, stopped at the end. PostgreSQL refuses to run as root, so then the user `postgres` runs it."""
    bin_dir = programs()
    with tempfile.TemporaryDirectory(prefix="reelay-postgres-") as folder:
        as_user: tuple[str, ...] = ()
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")
        data = Path(folder) / "data"
        initdb = [bin_dir / "initdb", "-D", data, "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run([*as_user, *initdb], cwd=folder, check=True, capture_output=True, timeout=START_S)
        port = free_port()
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *QUICK]
        options = [part for setting in settings for part in ("-c", setting)]
        command = [*as_user, "setpriv", "--pdeathsig", "INT", "--", bin_dir / "postgres", "-D", data, *options]
        server = Postgres(port, command, Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _wait_until_it_answers(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + START_S
    while True:
        try:
            server.execute("SELECT 1")
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > ends_at:
                raise AssertionError(f"PostgreSQL does not respond: {log.read_text()[-2000:]}") from None
            time.sleep(0.05)

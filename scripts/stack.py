"""The gateway, and a worker of the provider `local`, as processes on loopback: started and stopped together."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from common.settings import read, variables
from gateway.providers.registry import PROVIDERS
from gateway.providers.worker_client import credentials_of
from gateway.settings import Settings, secrets_of
from gateway.signing import Signer
from handler.settings import Settings as WorkerSettings

ROOT = Path(__file__).parent.parent
START_S = 30
STOP_S = 15


class StackError(Exception):
    """The stack could not be started, or one of its processes died; the message says why."""


WORKER_VARIABLES = frozenset(variables(WorkerSettings))
_CLASSES: tuple[type[Any], ...] = (Settings, *(registration.settings for registration in PROVIDERS.values()))
VARIABLES = WORKER_VARIABLES.union(*map(variables, _CLASSES))


def _neutral_environ(root: Path) -> dict[str, str]:
    """This process's environment without any of our settings."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return {**kept, "PYTHONPATH": str(root)}


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def free_port() -> int:
    """A port that is free at this moment, outside the range from which the kernel chooses ports."""
    while True:
        port = 20_000 + secrets.randbelow(12_768)  # the kernel's own ports begin at 32,768
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Stack:
    """A context manager: inside, the gateway runs at `url` and jobs run on the worker; afterwards both are stopped.

    The processes get `environ` and the settings below, but no other setting of this process and no `.env`; the worker
    gets none of the gateway's secrets.
    """

    #: The gateway's DATA_DIR.
    data_dir: Path
    #: Where the logs of both are written.
    log_dir: Path
    #: The gateway's port.
    port: int = field(default_factory=free_port)
    #: The worker's port.
    worker_port: int = field(default_factory=free_port)
    #: The API key of the gateway.
    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    #: Settings of both. Without `local` in PROVIDERS no worker is started.
    environ: Mapping[str, str] = field(default_factory=dict)
    #: The checkout that the processes import.
    root: Path = ROOT

    def __post_init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log_dir.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def has_worker(self) -> bool:
        return "local" in self.environ.get("PROVIDERS", "local").split(",")

    def __enter__(self) -> Stack:
        for name, port in (("PORT", self.port), ("WORKER_PORT", self.worker_port)):
            if (name == "PORT" or self.has_worker) and _in_use(port):
                raise StackError(f"port {port} is in use; set {name} to another one")
        if self.port == self.worker_port:
            raise StackError("PORT and WORKER_PORT must differ")
        try:
            self.start_gateway()
            if self.has_worker:
                self.start_worker()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_gateway(self) -> None:
        self._start("gateway", "gateway", self._gateway_environ())

    def start_worker(self) -> None:
        signer = Signer(secrets_of(read(Settings, self._gateway_environ())))
        environ = {
            "ALLOWED_IPS": "127.0.0.1",
            "WORK_DIR": str(self.data_dir / "work"),
            **{name: value for name, value in self.environ.items() if name in WORKER_VARIABLES},
            "WORKER_PORT": str(self.worker_port),
            "FETCH_ALLOW_ORIGINS": ",".join(filter(None, (self.url, self.environ.get("FETCH_ALLOW_ORIGINS")))),
            **credentials_of(signer)[0].environ,
        }
        self._start("worker", "handler.http_worker", environ)

    def wait_ready(self) -> None:
        """Wait until database, dispatcher and worker are ready. Raises StackError with the failed checks."""
        ends_at = time.monotonic() + START_S
        checks: object = "the gateway does not respond"
        while time.monotonic() < ends_at:
            self.check()
            try:
                answer = requests.get(f"{self.url}/ready", timeout=5)
                if answer.status_code == 200:
                    return
                checks = answer.json()["checks"]
            except (requests.RequestException, KeyError):
                pass
            time.sleep(0.1)
        raise StackError(f"not ready after {START_S} s: {checks}")

    def check(self) -> None:
        """Raise StackError, with the end of its log, when a process has died."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise StackError(f"the {name} ended with status {process.returncode}:\n{self.log_tail(name)}")

    def log_tail(self, name: str) -> str:
        """The last lines of a process's log."""
        return "\n".join((self.log_dir / f"{name}.log").read_text(errors="replace").splitlines()[-8:])

    def process(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[name]

    def stop(self, *names: str) -> None:
        """Stop the named processes, or all: with SIGTERM, then SIGKILL."""
        chosen = [self._processes.pop(name) for name in names or ("worker", "gateway") if name in self._processes]
        for process in chosen:
            process.terminate()
        for process in chosen:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _gateway_environ(self) -> dict[str, str]:
        return {
            "PROVIDERS": "local",
            "PUBLIC_URL": self.url,
            "MIN_FREE_DISK_PERCENT": "1",  # a laptop's disk is often nearly full
            **self.environ,
            "DATA_DIR": str(self.data_dir),
            "PORT": str(self.port),
            "X_API_KEY": self.api_key,
            "LOCAL_WORKER_URL": f"http://127.0.0.1:{self.worker_port}",
        }

    def _start(self, name: str, module: str, environ: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", module]
        if shutil.which("setpriv"):  # so that they stop when this process is killed
            command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        with (self.log_dir / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                cwd=self.log_dir,  # a directory without .env
                env={**_neutral_environ(self.root), **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process only, which stops them in order
            )

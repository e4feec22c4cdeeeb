"""A gateway under attack: its workers, the receiver of the victim's webhooks, and the keys of both sides."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from bench.fairness import attacker, victim
from bench.fairness.attacker import Assault, Outcome
from bench.fairness.local_worker import LocalWorker
from bench.fairness.sizes import Sizes
from bench.gateway.sizes import on_few_cores
from bench.gateway.workers import Workers
from common.clock import SystemClock
from gateway.access.keys import Keys
from gateway.db.engine import make_engine
from gateway.db.store import Store
from scripts.stack import ROOT, Stack
from tests.emulators.runpod import Config, Emulator
from tests.servers import Loopback

# Longer jobs stay with RunPod until they are cancelled.
MAX_WORK_S = 10.0
# How long the attack goes on after the victim's last request, at most, until all its jobs have begun.
PATIENCE_S = 15.0


class Receiver(Loopback):
    """Receives the victim's webhooks. `arrived`: when the first try of each arrived, in ms UTC."""

    def __init__(self) -> None:
        self.arrived: dict[str, float] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                job_id = self.headers["webhook-id"].replace("wh_", "job_")
                server.arrived.setdefault(job_id, time.time() * 1000)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        super().__init__(Handler)


class SilentHosts:
    """Many addresses on one port, each of which takes connections and never responds."""

    def __init__(self, count: int) -> None:
        self._socket = socket.create_server(("0.0.0.0", 0), backlog=4096)
        port = self._socket.getsockname()[1]
        self.origins = [f"http://127.1.{number // 250}.{number % 250 + 1}:{port}" for number in range(count)]

    def close(self) -> None:
        self._socket.close()


class _GatewayAlone(Stack):
    """A stack whose worker is the stand-in."""

    has_worker = False


@dataclass
class Scene:
    """A running gateway."""

    stack: Stack
    store: Store
    receiver: Receiver
    silent: SilentHosts
    #: The attacker's key and its secret.
    key_id: str
    secret: str

    @property
    def data_dir(self) -> Path:
        return self.stack.data_dir

    def victim(self, sizes: Sizes, seconds: float, job_every: int) -> victim.Report:
        """Run the victim's load; return after all of its jobs have begun and their webhooks arrived, if they do."""
        url = self.receiver.url("/")
        load = victim.Load(self.stack.port, self.stack.api_key, url, seconds, sizes.per_s, job_every)
        run = subprocess.run(
            [sys.executable, victim.__file__],
            input=json.dumps(asdict(load)),
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if run.returncode != 0:
            raise RuntimeError(run.stderr[-2000:])
        report = victim.Report(**json.loads(run.stdout))
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at and not set(report.job_ids) <= self.receiver.arrived.keys():
            time.sleep(0.1)
        return report

    def times(self, job_ids: list[str]) -> tuple[list[float], list[float]]:
        """Seconds from the victim's jobs to their begin, and from their ends to their webhooks.

        Those that have not come are counted as if they came now.
        """
        with closing(sqlite3.connect(self.data_dir / "reelay.db", timeout=30)) as connection:
            columns = "id, created_at, started_at, finished_at"
            rows = [row for row in connection.execute(f"SELECT {columns} FROM jobs") if row[0] in set(job_ids)]
        now = time.time() * 1000
        begun = [((started or now) - created) / 1000 for _, created, started, _ in rows]
        arrived = self.receiver.arrived
        return begun, [(arrived.get(id_, now) - ended) / 1000 for id_, _, _, ended in rows if ended]


@contextmanager
def attack(assault: Assault) -> Iterator[Callable[[], Outcome]]:
    """Run the attack inside the block, in a process of its own. Yields what ends it and returns its outcome."""
    process = subprocess.Popen(
        [sys.executable, attacker.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )

    def end() -> Outcome:
        out, _ = process.communicate()
        return Outcome(**json.loads(out.splitlines()[-1]))

    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(asdict(assault)) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        yield end
    finally:
        process.kill()
        process.communicate()


@contextmanager
def scene(folder: Path, silent_hosts: int, *, local: bool) -> Iterator[Scene]:
    """Run a gateway with its default limits; `local`: with one worker that takes one job at a time, else at RunPod."""
    with closing(Receiver()) as receiver, closing(SilentHosts(silent_hosts)) as silent:
        allowed = {"WEBHOOK_ALLOW_ORIGINS": ",".join([receiver.origin, *silent.origins])}
        with (_at_local_worker if local else _at_runpod)(folder, allowed) as stack:
            engine = make_engine(f"sqlite:///{stack.data_dir / 'reelay.db'}")
            store = Store(engine)
            key, secret = Keys(store, SystemClock()).create("attacker")
            try:
                yield Scene(stack, store, receiver, silent, key.id, secret)
            finally:
                engine.dispose()


@contextmanager
def _at_runpod(folder: Path, environ: Mapping[str, str]) -> Iterator[Stack]:
    with Emulator(Config(max_workers=0, max_queued=1_000_000, lost_after_s=3600)) as runpod:
        stack = Stack(folder / "data", folder / "logs", environ={**runpod.gateway_environ, **environ})
        with on_few_cores():
            stack.__enter__()
        workers = Workers(runpod.queue, folder, _work_s)
        try:
            yield stack
        finally:
            workers.stop()
            stack.stop()


@contextmanager
def _at_local_worker(folder: Path, environ: Mapping[str, str]) -> Iterator[Stack]:
    with closing(LocalWorker(folder)) as worker:
        stack = _GatewayAlone(folder / "data", folder / "logs", worker_port=worker.port, environ=environ)
        with on_few_cores():
            stack.__enter__()
        try:
            yield stack
        finally:
            stack.stop()


def _work_s(params: Mapping[str, Any]) -> float | None:
    seconds = float(params.get("duration", MAX_WORK_S + 1))
    return None if seconds > MAX_WORK_S else seconds

"""Two gateways and two dispatchers on one PostgreSQL, killed at random while clients submit."""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from PIL import Image

from gateway.db.engine import make_engine
from scripts.stack import Stack, free_port
from tests.end_to_end.conftest import FINISHED, MakeStack
from tests.end_to_end.processes import kill_tree
from tests.postgres import postgres_server
from tests.servers import FileServer, Reply, eventually

pytestmark = pytest.mark.slow

JOBS, CLIENTS = 24, 3
PAUSE_S = (0.3, 1.2)
KILLS = 8


class Fleet:
    """The processes, which share one database and one data folder, and one worker that is never killed."""

    def __init__(self, stack: Stack, database: str) -> None:
        self._stack = stack
        shared = {**stack._gateway_environ(), "DATABASE_URL": database, "RUN_DISPATCHER": "false", "THREADS": "8"}
        self.urls = [f"http://127.0.0.1:{port}" for port in (free_port(), free_port())]
        self._commands = {}
        for number, url in enumerate(self.urls):
            # workers report to the gateway of their dispatcher
            environ = {**shared, "PORT": url.rpartition(":")[2], "PUBLIC_URL": url}
            self._commands[f"gateway-{number}"] = ("gateway", environ)
            self._commands[f"dispatcher-{number}"] = ("tests.end_to_end.hasty_dispatcher", environ)
        self.headers = {"X-API-Key": stack.api_key}

    @contextmanager
    def running(self) -> Iterator[None]:
        try:
            for name, (module, environ) in self._commands.items():
                self._stack._start(name, module, environ)
                if name == "gateway-0":
                    eventually(lambda: self.answers(0))  # has migrated
            self._stack.start_worker()
            eventually(lambda: self.answers(0, "/ready") and self.answers(1, "/ready"))
            yield
        finally:
            self._stack.stop(*self._commands, "worker")

    def answers(self, number: int, path: str = "/health") -> bool:
        try:
            return requests.get(f"{self.urls[number]}{path}", timeout=2).ok
        except requests.RequestException:
            return False

    def kill(self, name: str) -> None:
        """Kill the process with SIGKILL and restart it."""
        process = self._stack.process(name)
        kill_tree(process.pid)
        process.wait()
        self._stack._start(name, *self._commands[name])

    def names(self) -> list[str]:
        return list(self._commands)

    def worker_log(self) -> list[dict[str, Any]]:
        lines = (self._stack.log_dir / "worker.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def submit(fleet: Fleet, number: int, image: str) -> str:
    """Submit like a careful client: with an Idempotency-Key, at the other gateway when this one does not respond."""
    body = {"url_image": image, "duration": 0.2, "size": "64x64"}
    for tries in range(200):
        url = fleet.urls[(number + tries) % 2]
        try:
            answer = requests.post(
                f"{url}/video/img2vid", json=body, headers={**fleet.headers, "Idempotency-Key": str(number)}, timeout=5
            )
        except requests.RequestException:
            answer = None
        if answer is not None and answer.status_code == 202:
            return str(answer.json()["jobId"])
        assert answer is None or answer.status_code >= 500, answer.text
        time.sleep(0.1)
    raise AssertionError("no gateway took the job")


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_no_acknowledged_job_is_lost_or_done_twice(make_stack: MakeStack, files: FileServer, tmp_path: Path) -> None:
    files.routes["/photo.png"] = Reply(body=photo())
    chance = random.Random(5)
    done = threading.Event()

    def kill_at_random(fleet: Fleet) -> list[str]:
        killed: list[str] = []
        while len(killed) < KILLS and not done.wait(chance.uniform(*PAUSE_S)):
            killed.append(chance.choice(fleet.names()))
            fleet.kill(killed[-1])
        return killed

    stack = make_stack(WORKER_CONCURRENCY="2")
    with postgres_server() as server, server.database() as database, ThreadPoolExecutor(CLIENTS + 1) as pool:
        fleet = Fleet(stack, database)
        with fleet.running():
            killing = pool.submit(kill_at_random, fleet)
            try:
                jobs = list(pool.map(lambda number: submit(fleet, number, files.url("/photo.png")), range(JOBS)))
                engine = make_engine(database, pool_size=1)
                eventually(lambda: all_ended(engine, JOBS), 90)
            finally:
                done.set()
            killed = killing.result()
        with engine.connect() as connection:
            rows = connection.execute(sa.text("SELECT id, status, tries FROM jobs")).all()
        engine.dispose()
    assert sorted(row.id for row in rows) == sorted(jobs), "every acknowledged job is there, and no other"
    assert Counter(row.status for row in rows) == {"completed": JOBS}
    ran = Counter(line["job_id"] for line in fleet.worker_log() if line["event"] == "attempt.started")
    assert ran == dict.fromkeys(jobs, 1), "none ran twice"
    assert len(list((stack.data_dir / "files").rglob("*.mp4"))) == JOBS
    assert len(killed) >= 4, killed


def all_ended(engine: sa.Engine, count: int) -> bool:
    with engine.connect() as connection:
        statuses = connection.scalars(sa.text("SELECT status FROM jobs")).all()
    return len(statuses) == count and FINISHED.issuperset(statuses)

"""Many jobs while gateways, dispatchers and workers are killed at random."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.db.engine import make_engine
from handler import workdir
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scenery import (
    assets,
    encodes,
    endpoint,
    follow,
    insist,
    params,
    running_in,
    settings,
    waiting_at,
)
from tests.chaos.worker import Workers

# Each client has one job in flight: polling thousands of waiting ones would slow down those that run.
CLIENTS, WORKERS = 24, 6
# Seconds between two kills of the same kind of process.
PAUSES: Mapping[str, tuple[float, float]] = {"gateway": (2, 6), "dispatcher": (3, 10), "worker": (3, 8)}
# Codes of a job whose three attempts all lost their worker.
UNLUCKY = frozenset({"worker_lost", "claim_timeout", "submit_unconfirmed"})


@dataclass
class Report:
    """How the jobs ended; `wrong` lists broken promises."""

    jobs: int
    #: what was killed
    kills: Counter[str] = field(default_factory=Counter)
    #: how the jobs ended, as the clients saw it
    ends: Counter[str] = field(default_factory=Counter)
    #: how many jobs took so many tries
    tries: Counter[int] = field(default_factory=Counter)
    encodes: int = 0
    #: files that the clean-up will remove
    left: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Load:
    """Gateways, as many dispatchers, and workers at RunPod, all killed and restarted at random.

    They share `database`, which is SQLite's in their data folder by default.
    """

    def __init__(self, home: Path, *, seed: int, pretend: bool, gateways: int = 1, database: str | None = None) -> None:
        self._home, self._data = home, home / "data"
        self._database = database or f"sqlite:///{self._data / 'reelay.db'}"
        self._ports = [free_port() for _ in range(gateways)]
        self._urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self._random = random.Random(seed)
        self._files, self._zygote, self._workers = assets(home), Zygote(), Workers()
        env = {"PRETEND": str(home / "encodes")} if pretend else {}
        self._runpod = endpoint(home, self._files, self._workers, WORKERS, env)
        self._environ = {
            **self._runpod.gateway_environ,
            "DATABASE_URL": self._database,
            "RATE_LIMIT_PER_KEY": "0",
            "MAX_JOBS_PER_KEY": "0",
            "THREADS": "64",
            "RUN_DISPATCHER": "false",
        }

    def run(self, jobs: int) -> Report:
        report, began = Report(jobs), time.monotonic()
        with self._runpod, self._processes() as groups:
            over = threading.Event()
            killers = [threading.Thread(target=self._kill, args=(kind, groups, over, report)) for kind in PAUSES]
            for killer in killers:
                killer.start()
            try:
                with ThreadPoolExecutor(CLIENTS) as clients:
                    ids, ends = zip(*clients.map(self._job, range(jobs)), strict=True)
            finally:
                over.set()
                for killer in killers:
                    killer.join()
            report.seconds = time.monotonic() - began
            self._until_quiet(report)
            report.ends = Counter(ends)
            self._look(report, ids)
        return report

    @contextmanager
    def _processes(self) -> Iterator[dict[str, list[int]]]:
        self._data.mkdir()
        try:
            groups: dict[str, list[int]] = {"gateway": [], "dispatcher": []}
            for port, url in zip(self._ports, self._urls, strict=True):
                for role, running in groups.items():
                    log = self._home / f"{role}-{port}.log"
                    environ = {**self._environ, **settings(port, self._data), "ROLE": role, "LOG": str(log)}
                    running.append(self._zygote.start(environ))
                    insist("GET", f"{url}/health")
            yield groups
        finally:
            self._zygote.close()
            self._workers.close()
            self._files.close()

    def _job(self, number: int) -> tuple[str, str]:
        """Submit a job and follow it; return its id, and how it ended: `completed` only if its output can be fetched."""
        first = number % len(self._urls)
        job = follow(params(self._files), *self._urls[first:], *self._urls[:first])
        if job["status"] == "completed":
            whole = len(insist("GET", job["video_url"]).content) == job["stats"]["size_bytes"]
            return job["jobId"], "completed" if whole else "completed with another output"
        return job["jobId"], f"{job['status']} {job.get('error', {}).get('code', '')}".strip()

    def _kill(self, kind: str, groups: Mapping[str, list[int]], over: threading.Event, report: Report) -> None:
        chance = random.Random(self._random.random())
        while not over.wait(chance.uniform(*PAUSES[kind])):
            if kind in groups:
                report.kills[kind] += self._zygote.kill_once(chance.choice(groups[kind]))
                continue
            busy = [worker for worker in self._runpod.fleet.all() if worker.ready and not worker.leaving]
            if busy:
                self._runpod.fleet.kill(chance.choice(busy).id)
                report.kills[kind] += 1

    def _until_quiet(self, report: Report) -> None:
        ends_at = time.monotonic() + 60
        while self._rows("SELECT id FROM jobs WHERE next_at IS NOT NULL") or waiting_at(self._runpod):
            if time.monotonic() > ends_at:
                report.wrong.append(f"work goes on after all jobs have ended: {waiting_at(self._runpod)} at RunPod")
                return
            time.sleep(0.1)

    def _look(self, report: Report, ids: Iterable[str]) -> None:
        stored = self._rows("SELECT id, status, tries, error_code FROM jobs")
        report.tries = Counter(tries for _, _, tries, _ in stored)
        if {row[0] for row in stored} != set(ids) or len(stored) != report.jobs:
            report.wrong.append(f"{len(stored)} jobs for {report.jobs} keys, {len(set(ids))} acknowledged")
        for job_id, status, tries, code in stored:
            # three of its workers were killed
            if status != "completed" and not (tries == 3 and code in UNLUCKY):
                report.wrong.append(f"{job_id} {status} after {tries} tries: {code}")
        if odd := {end for end in report.ends if end not in {"completed", *(f"failed {code}" for code in UNLUCKY)}}:
            report.wrong.append(f"clients saw {odd}")
        self._look_at_attempts(report)
        report.encodes = encodes(self._home)
        if report.encodes > report.jobs + report.kills["worker"]:
            report.wrong.append(f"{report.encodes} encodes")
        workdir.sweep(self._home / "work")
        if left := [*(self._home / "work").glob("attempt-*"), *running_in(self._home)]:
            report.wrong.append(f"leftovers of the workers: {left}")

    def _look_at_attempts(self, report: Report) -> None:
        done = self._rows("SELECT job_id, id FROM attempts WHERE state = 'done'")
        completed = self._rows("SELECT id, attempt_id FROM jobs WHERE status = 'completed'")
        if sorted(done) != sorted(completed):
            report.wrong.append(f"{len(done)} attempts are done for {len(completed)} jobs")
        if open_ := self._rows("SELECT id FROM attempts WHERE ended_at IS NULL"):
            report.wrong.append(f"{len(open_)} attempts never ended")
        files = {str(path.relative_to(self._data / "files")) for path in (self._data / "files").rglob("*.*")}
        outputs = {f"outputs/{job}/{attempt}/video.mp4" for job, attempt in done}
        known = {f"outputs/{job}/{attempt}/video.mp4" for job, attempt in self._rows("SELECT job_id, id FROM attempts")}
        if lost := outputs - files:
            report.wrong.append(f"{len(lost)} outputs are not there")
        left = files - outputs
        report.left = len(left)
        if unknown := {name for name in left if ".part-" not in name} - known:
            report.wrong.append(f"unknown files: {sorted(unknown)[:3]}")

    def _rows(self, query: str) -> list[Any]:
        engine = make_engine(self._database, pool_size=1)
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.exec_driver_sql(query)]
        finally:
            engine.dispose()

"""Many jobs while gateway, dispatcher and workers are killed at random."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from handler import workdir
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scene import FINISHED, KEY
from tests.chaos.scenery import counting, media, running_in
from tests.chaos.worker import Workers
from tests.emulators.runpod import Config, Emulator
from tests.servers import FileServer, Reply

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
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)
    encodes: int = 0
    left: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs in {self.seconds:.0f} s, kills {dict(self.kills)}, ends {dict(self.ends)},"
            f" tries {dict(sorted(self.tries.items()))}, {self.encodes} encodes,"
            f" {self.left} files for the clean-up; {'; '.join(self.wrong) or 'well'}"
        )


class Load:
    """A gateway, a separate dispatcher and workers at RunPod, all killed and restarted at random."""

    def __init__(self, home: Path, *, seed: int, pretend: bool) -> None:
        self._home, self._data, port = home, home / "data", free_port()
        self._url = f"http://127.0.0.1:{port}"
        self._random = random.Random(seed)
        self._files, self._zygote, self._workers = FileServer(), Zygote(), Workers()
        for name, body in media(home).items():
            self._files.routes[f"/{name}"] = Reply(body=body)
        encodes = home / "encodes"
        self._encodes = encodes
        self._runpod = Emulator(
            Config(
                min_workers=WORKERS,
                max_workers=WORKERS,
                cold_start_s=0,
                latency_ms=10,
                lost_after_s=5,
                crash_pause_s=0.1,
                command=self._workers.command,
                env={
                    "FETCH_ALLOW_ORIGINS": self._files.origin,
                    "PATH": f"{counting(home)}:{os.environ['PATH']}",
                    "WORK_DIR": str(home / "work"),
                    **({"PRETEND": str(encodes)} if pretend else {}),
                },
            )
        )
        self._environ = {
            **self._runpod.gateway_environ,
            "RATE_LIMIT_PER_KEY": "0",
            "MAX_JOBS_PER_KEY": "0",
            "PUBLIC_URL": self._url,
            "PORT": str(port),
            "DATA_DIR": str(self._data),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
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
                    ids, ends = zip(*clients.map(lambda _: self._live(), range(jobs)), strict=True)
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
    def _processes(self) -> Iterator[dict[str, int]]:
        self._data.mkdir()
        try:
            groups = {}
            for role in ("gateway", "dispatcher"):
                environ = {**self._environ, "ROLE": role, "LOG": str(self._home / f"{role}.log")}
                groups[role] = self._zygote.start(environ)
                self._insist("GET", "/health")
            yield groups
        finally:
            self._zygote.close()
            self._workers.close()
            self._files.close()

    def _live(self) -> tuple[str, str]:
        """Submit a job and follow it; return its id, and how it ended."""
        job_id = self._submit()
        return job_id, self._end(job_id)

    def _submit(self) -> str:
        params = {"url_video": self._files.url("/video.mp4"), "url_audio": self._files.url("/audio.m4a")}
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return str(self._insist("POST", "/video/adicionaAudio", json=params, headers=headers).json()["jobId"])

    def _end(self, job_id: str) -> str:
        """How the job ended; `completed` only if its output can be fetched."""
        ends_at = time.monotonic() + 300
        while True:
            job = self._insist("GET", f"/jobs/{job_id}", headers={"Prefer": "wait=5"}).json()
            if job["status"] in FINISHED or time.monotonic() > ends_at:
                break
        if job["status"] == "completed":
            output = self._insist("GET", job["video_url"].removeprefix(self._url)).content
            return "completed" if len(output) == job["stats"]["size_bytes"] else "completed with another output"
        code = job.get("error", {}).get("code", "")
        return f"{job['status']} {code}".strip()

    def _insist(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> requests.Response:
        headers = {"X-API-Key": KEY, **(headers or {})}
        ends_at = time.monotonic() + 60
        while True:
            try:
                answer = requests.request(method, self._url + path, headers=headers, timeout=10, **more)
                if answer.status_code < 300:
                    return answer
                if answer.status_code < 500:
                    raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
            except requests.RequestException:
                pass
            assert time.monotonic() < ends_at, f"{method} {path}: no response"
            time.sleep(0.05)

    def _kill(self, kind: str, groups: Mapping[str, int], over: threading.Event, report: Report) -> None:
        chance = random.Random(self._random.random())
        while not over.wait(chance.uniform(*PAUSES[kind])):
            if kind in groups:
                report.kills[kind] += self._zygote.kill_once(groups[kind])
                continue
            busy = [worker for worker in self._runpod.fleet.all() if worker.ready and not worker.leaving]
            if busy:
                self._runpod.fleet.kill(chance.choice(busy).id)
                report.kills[kind] += 1

    def _until_quiet(self, report: Report) -> None:
        ends_at = time.monotonic() + 60
        while self._rows("SELECT id FROM jobs WHERE next_at IS NOT NULL") or self._at_runpod():
            if time.monotonic() > ends_at:
                report.wrong.append(f"work goes on after all jobs have ended: {self._at_runpod()} at RunPod")
                return
            time.sleep(0.1)

    def _at_runpod(self) -> int:
        counts = self._runpod.queue.counts()
        return counts["inQueue"] + counts["inProgress"]

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
        if self._encodes.exists():
            report.encodes = len(self._encodes.read_text().splitlines())
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
        with closing(sqlite3.connect(self._data / "reelay.db", timeout=10)) as connection:
            return connection.execute(query).fetchall()

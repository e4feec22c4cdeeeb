"""Runs of one job from submit to output, with processes killed at planned steps, and checks of what must hold."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import standardwebhooks

from gateway.access.keys import webhook_secrets
from gateway.domain.attempts import Attempt, AttemptState
from gateway.signing import Signer
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.scenery import counting, leave_old_things, media, opened, running_in
from tests.chaos.steps import Book, Plan, Point
from tests.chaos.worker import Workers
from tests.emulators.runpod import Config, Emulator
from tests.outputs import video_key
from tests.servers import FileServer, Reply, Request

KEY = "a-key-of-the-tests-alone"
# Far longer than a run takes.
PATIENCE_S = 60.0
WORKERS = 2
HOOK = "/hook"
FINISHED = {"completed", "failed", "cancelled"}
# The contents of a gateway's data folder beside files.
_DATA = {"reelay.db", "reelay.db-wal", "reelay.db-shm", ".migrate.lock", "secret_key", "files/uploads"}
Fault = Mapping[str, Any]


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Outcome:
    """What one run did."""

    #: where processes were to be killed, in this order
    deaths: tuple[Point, ...]
    #: the faults that were injected
    faults: tuple[Fault, ...]
    #: the steps and deaths that took place
    plan: Plan = field(default_factory=Plan)
    #: the promises that were broken
    wrong: list[str] = field(default_factory=list)
    #: encodes that were started
    encodes: int = 0
    #: requests that the webhook's receiver got
    webhooks: int = 0
    #: how long the run took
    seconds: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether every planned death took place."""
        return len(self.plan.died) == len(self.deaths)

    def __str__(self) -> str:
        deaths = ", then ".join(map(str, self.deaths)) or "no death"
        faults = ", ".join(f"{fault['kind']} on {fault['on']}" for fault in self.faults) or "no fault"
        return f"{deaths}, {faults}: {'; '.join(self.wrong) or 'well'} ({self.seconds:.1f} s)"


class Scene:
    """An endpoint at RunPod with warm workers, a file server of assets, and a gateway for each run."""

    def __init__(self, home: Path, gateways: Zygote, workers: Workers) -> None:
        self.home, self._gateways, self._workers = home, gateways, workers
        self._book = Book(home)
        self._runs = 0

    def __enter__(self) -> Scene:
        self._files, self.receiver = FileServer(), Receiver()
        self._files.routes[HOOK] = self.receiver
        for name, body in media(self.home).items():
            self._files.routes[f"/{name}"] = Reply(body=body)
        self.encodes = self.home / "encodes"
        env = {
            "FETCH_ALLOW_ORIGINS": self._files.origin,
            "PATH": f"{counting(self.home)}:{os.environ['PATH']}",
            "WORK_DIR": str(self.home / "work"),
            "CHAOS": str(self.home),
        }
        self.runpod = Emulator(
            Config(
                min_workers=WORKERS,
                max_workers=WORKERS,
                cold_start_s=0,
                latency_ms=0,
                lost_after_s=5,
                crash_pause_s=0.1,
                command=self._workers.command,
                env=env,
            )
        )
        self.runpod.__enter__()
        self.past = self.home / "past"
        self.first_start = self._make_past()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runpod.stop()
        self._files.close()

    def _make_past(self) -> list[Point]:
        """Start a gateway once to make the data folder that runs begin with; return the points of that start."""
        self._wait_for_workers()
        life = _Life(self, self.home / "first-start", fresh=True)
        self._book.open()
        gateway = self._gateways.start(life.environ)
        life.insist("GET", "/health")
        self._gateways.kill(gateway)
        points = self._book.close().points()
        leave_old_things(life.data)
        life.data.rename(self.past)
        return points

    def run(self, deaths: Iterable[Point] = (), faults: Iterable[Fault] = ()) -> Outcome:
        """Run one job from submit to output, and wait until everything is cleaned up."""
        outcome = Outcome(tuple(deaths), tuple(faults))
        self._wait_for_workers()
        self.encodes.unlink(missing_ok=True)
        self.receiver.begin([fault for fault in outcome.faults if fault["on"] == "webhook"])
        for fault in outcome.faults:
            if fault["on"] != "webhook":
                self.runpod.inject(**fault)
        self._runs += 1
        fresh = bool(outcome.deaths) and outcome.deaths[0].name in {point.name for point in self.first_start}
        life = _Life(self, self.home / f"run-{self._runs}", fresh=fresh)
        began = time.monotonic()
        self._book.open(*outcome.deaths)
        gateway = self._gateways.start(life.environ)
        try:
            life.live()
            outcome.wrong = life.wrong()
        except Exception as error:
            outcome.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            outcome.plan = self._book.close()
            self._gateways.kill(gateway)
            self.runpod.faults.clear()
        outcome.encodes, outcome.webhooks = self._encodes(), len(self.receiver.requests)
        outcome.wrong += self._left(outcome)
        outcome.seconds = time.monotonic() - began
        if not outcome.wrong:
            shutil.rmtree(life.home)
        return outcome

    def _encodes(self) -> int:
        return len(self.encodes.read_text().splitlines()) if self.encodes.exists() else 0

    def _left(self, outcome: Outcome) -> list[str]:
        """Leftovers at the endpoint and in the workers' folders, and encodes too many."""
        wrong = []
        began = {process for process, _, step in outcome.plan.steps if "start ffmpeg " in step}
        # A worker that was killed after it had started FFmpeg leaves its work to be done again.
        limit = 1 + sum(process in began for process, _ in outcome.plan.died)
        if not 1 <= outcome.encodes <= limit:
            wrong.append(f"{outcome.encodes} encodes, at most {limit} were needed")
        try:
            self._wait(lambda: not running_in(self.home), "FFmpeg is still running")
            self._wait(lambda: not self._work_left(), "private directories are left")
            self._wait_for_workers()
        except Broken as error:
            wrong.append(f"{error}: {self._work_left()} {running_in(self.home)}")
        counts = self.runpod.queue.counts()
        if counts["inQueue"] or counts["inProgress"]:
            wrong.append(f"left at RunPod: {counts}")
            self.runpod.queue.purge()
        return wrong

    def _wait_for_workers(self) -> None:
        """Wait for idle workers, because the steps of a starting worker belong to no job."""
        self._wait(lambda: self.runpod.fleet.counts()["idle"] >= WORKERS, "the workers do not start")

    def _work_left(self) -> list[str]:
        return [path.name for path in (self.home / "work").glob("attempt-*")]

    @staticmethod
    def _wait(check: Callable[[], bool], otherwise: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not check():
            if time.monotonic() > ends_at:
                raise Broken(otherwise)
            time.sleep(0.1)  # many scenes wait at once, and polling costs CPU


class _Life:
    """One job at a gateway that may be down at any moment."""

    def __init__(self, scene: Scene, home: Path, *, fresh: bool) -> None:
        self.home, self.data, port = home, home / "data", free_port()
        self._scene, self._url = scene, f"http://127.0.0.1:{port}"
        self._ends_at = time.monotonic() + PATIENCE_S
        self._ids: set[str] = set()
        self._job: dict[str, Any] = {}
        urls = {"url_video": "/video.mp4", "url_audio": "/audio.m4a", "webhook_url": HOOK}
        self._params = {name: scene._files.url(path) for name, path in urls.items()}
        if fresh:
            self.data.mkdir(parents=True)
        else:
            shutil.copytree(scene.past, self.data)
        self.environ = {
            **scene.runpod.gateway_environ,
            "PUBLIC_URL": self._url,
            "PORT": str(port),
            "DATA_DIR": str(self.data),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
            "WEBHOOK_ALLOW_ORIGINS": scene._files.origin,
            "CHAOS": str(scene.home),
            "LOG": str(home / "gateway.log"),
        }

    def live(self) -> None:
        """Submit until the job is acknowledged, follow it to its end, fetch the output, wait until all is quiet."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self.insist("POST", "/video/adicionaAudio", json=self._params, headers=headers)
        self._job = answer.json()
        path = f"/jobs/{self._job['jobId']}"
        while self._job.get("status") not in FINISHED:
            self._job = self.insist("GET", path, headers={"Prefer": "wait=5"}).json()
            if time.monotonic() > self._ends_at:
                raise Broken(f"the job never ended: {self._job} {self._attempts()}")
        again = self.insist("POST", "/video/adicionaAudio", json=self._params, headers=headers).json()
        self._ids = {self._job["jobId"], again["jobId"]}
        if self._job["status"] != "completed":
            raise Broken(f"the job is {self._job['status']}: {self._job.get('error')} {self._attempts()}")
        output = self.insist("GET", self._job["video_url"].removeprefix(self._url)).content
        if len(output) != self._job["stats"]["size_bytes"] or output[4:8] != b"ftyp":
            raise Broken(f"the output has {len(output)} bytes and begins {output[:8]!r}")
        Scene._wait(self._quiet, "work goes on after the job's end")
        try:
            Scene._wait(lambda: not self._left(), "something is left")
        except Broken as error:
            raise Broken(f"{error}: {self._left()}") from None

    def wrong(self) -> list[str]:
        """What is wrong in the database and at the webhook's receiver."""
        wrong = []
        if len(self._ids) != 1 or self._count("jobs") != 1:
            wrong.append(f"{self._count('jobs')} jobs for one Idempotency-Key: {self._ids}")
        attempts = self._attempts()
        done = [attempt for attempt in attempts if attempt.state is AttemptState.DONE]
        if len(done) != 1 or not all(attempt.ended for attempt in attempts):
            wrong.append(f"attempts: {attempts}")
        return wrong + self._scene.receiver.wrong(self._job["jobId"], self._webhook_secret())

    def _left(self) -> list[str]:
        """Files and rows that the clean-up has not removed yet."""
        output = self.data / "files" / video_key(self._attempts()[-1])
        known = {output, *output.parents, *(self.data / name for name in _DATA)}
        # not rglob, which fails on files removed meanwhile
        below = (Path(folder, name) for folder, *names in os.walk(self.data) for name in itertools.chain(*names))
        found = {str(path.relative_to(self.data)) for path in below if path not in known}
        rows = {table: self._count(table) for table in ("jobs", "idempotency", "webhooks")}
        return sorted(found) + [f"{count} {table}" for table, count in rows.items() if count != 1]

    def _webhook_secret(self) -> str:
        """The secret that `keys webhook-secret` prints."""
        signer = Signer(((self.data / "secret_key").read_text().strip(),))
        with opened(self.data) as store:
            [key] = store.api_keys()
        return webhook_secrets(signer, key.id, key, 0)[0]

    def insist(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> requests.Response:
        """Call until the gateway is up and responds."""
        headers = {"X-API-Key": KEY, **(headers or {})}
        while True:
            try:
                answer = requests.request(method, self._url + path, headers=headers, timeout=10, **more)
                if answer.status_code < 300:
                    return answer
                if answer.status_code < 500 or time.monotonic() > self._ends_at:
                    raise Broken(f"{method} {path}: {answer.status_code} {answer.text}")
            except requests.RequestException as error:
                if time.monotonic() > self._ends_at:
                    raise Broken(f"{method} {path}: {error}") from error
            time.sleep(0.05)

    def _quiet(self) -> bool:
        counts = self._scene.runpod.queue.counts()
        if counts["inQueue"] or counts["inProgress"]:
            return False
        return self._count("jobs WHERE next_at > 0") + self._count("webhooks WHERE next_at > 0") == 0

    def _attempts(self) -> list[Attempt]:
        with opened(self.data) as store:
            return store.attempts(self._job["jobId"])

    def _count(self, rows: str) -> int:
        with closing(sqlite3.connect(self.data / "reelay.db", timeout=10)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])


class Receiver:
    """The receiver of the webhook, which may fail the first time."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: list[Fault] = []

    def begin(self, faults: list[Fault]) -> None:
        self.requests, self._faults = [], faults

    def __call__(self, request: Request) -> Reply:
        self.requests.append(request)
        if not self._faults:
            return Reply()
        fault = self._faults.pop()
        return Reply(drop=True) if fault["kind"] == "lost_reply" else Reply(fault["status"])

    def wrong(self, job_id: str, secret: str) -> list[str]:
        """What is wrong unless it got the job's end at least once, under one id and signed with `secret`."""
        wrong = []
        for request in self.requests:
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                told = standardwebhooks.Webhook(secret).verify(request.body, headers)
            except standardwebhooks.WebhookVerificationError as error:
                wrong.append(f"a webhook with a wrong signature: {error}")
                continue
            if (told["type"], told["data"]["jobId"]) != ("job.completed", job_id):
                wrong.append(f"a webhook of {told['type']} for {told['data']['jobId']}")
        ids = {request.headers["webhook-id"] for request in self.requests}
        if len(ids) != 1:
            wrong.append(f"{len(ids)} webhooks")
        return wrong

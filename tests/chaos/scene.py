"""One job's whole life, again and again, with deaths wherever they are asked for; and what must hold afterwards."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import standardwebhooks

from gateway.access.keys import webhook_secrets
from gateway.db.engine import make_engine
from gateway.db.store import Store
from gateway.domain import ids, webhooks
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook
from gateway.signing import Signer
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.steps import Book, Plan, Point
from tests.chaos.worker import Workers
from tests.emulators.runpod import Config, Emulator
from tests.servers import FileServer, Reply, Request

KEY = "a-key-of-the-tests-alone"
# Far longer than a run takes: whoever has not ended by then never will.
PATIENCE_S = 60.0
WORKERS = 2
HOOK = "/hook"
FINISHED = {"completed", "failed", "cancelled"}
# What a gateway keeps in its data folder beside files.
_DATA = {"reelay.db", "reelay.db-wal", "reelay.db-shm", ".migrate.lock", "secret_key", "files/uploads"}
Fault = Mapping[str, Any]


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass
class Outcome:
    """One run: what it did, and what was wrong afterwards (nothing, if all is well).

    `told`: how often the webhook's receiver was sent something.
    """

    deaths: tuple[Point, ...]
    faults: tuple[Fault, ...]
    plan: Plan = field(default_factory=Plan)
    wrong: list[str] = field(default_factory=list)
    encodes: int = 0
    told: int = 0
    seconds: float = 0.0

    @property
    def reached(self) -> bool:
        """Whether every death that was planned has come about."""
        return len(self.plan.died) == len(self.deaths)

    def __str__(self) -> str:
        deaths = ", then ".join(map(str, self.deaths)) or "no death"
        faults = ", ".join(f"{fault['kind']} on {fault['on']}" for fault in self.faults) or "no fault"
        return f"{deaths}, {faults}: {'; '.join(self.wrong) or 'well'} ({self.seconds:.1f} s)"


class Scene:
    """An endpoint at RunPod with warm workers, a stranger's file server, and a gateway for each run."""

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
        """Start a gateway for the first time, for a folder that runs begin with. Answers the points on that way."""
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
        """One job from its submit to its output, and everything cleared up behind it."""
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
        outcome.encodes, outcome.told = self._encodes(), len(self.receiver.requests)
        outcome.wrong += self._left(outcome)
        outcome.seconds = time.monotonic() - began
        if not outcome.wrong:
            shutil.rmtree(life.home)
        return outcome

    def _encodes(self) -> int:
        return len(self.encodes.read_text().splitlines()) if self.encodes.exists() else 0

    def _left(self, outcome: Outcome) -> list[str]:
        """What is wrong at the endpoint, in the workers' folders and with the number of encodes."""
        wrong = []
        began = {process for process, _, step in outcome.plan.steps if "start ffmpeg " in step}
        # Whoever held the claim and had begun when it was killed leaves the work to be done again.
        most = 1 + sum(process in began for process, _ in outcome.plan.died)
        if not 1 <= outcome.encodes <= most:
            wrong.append(f"{outcome.encodes} encodes, at most {most} were needed")
        try:
            self._wait(lambda: not running_in(self.home), "FFmpeg goes on")
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
        """Before every run: the steps of a worker that starts belong to no job."""
        self._wait(lambda: self.runpod.fleet.counts()["idle"] >= WORKERS, "the workers do not start")

    def _work_left(self) -> list[str]:
        return [path.name for path in (self.home / "work").glob("attempt-*")]

    @staticmethod
    def _wait(check: Callable[[], bool], otherwise: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not check():
            if time.monotonic() > ends_at:
                raise Broken(otherwise)
            time.sleep(0.1)  # many scenes wait at once, and to look takes their processors from those who work


class _Life:
    """One job's life at a gateway that may be gone at any moment."""

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
        """Submit until somebody acknowledges, follow to the end, fetch the output, wait until all is quiet."""
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
        Scene._wait(self._quiet, "something goes on after the job's end")
        try:
            Scene._wait(lambda: not self._left(), "something is left")
        except Broken as error:
            raise Broken(f"{error}: {self._left()}") from None

    def wrong(self) -> list[str]:
        """What the database, the storage and the webhook's receiver hold that they should not."""
        wrong = []
        if len(self._ids) != 1 or self._count("jobs") != 1:
            wrong.append(f"{self._count('jobs')} jobs for one Idempotency-Key: {self._ids}")
        attempts = self._attempts()
        done = [attempt for attempt in attempts if attempt.state is AttemptState.DONE]
        if len(done) != 1 or not all(attempt.ended for attempt in attempts):
            wrong.append(f"attempts: {attempts}")
        return wrong + self._scene.receiver.wrong(self._job["jobId"], self._webhook_secret())

    def _left(self) -> list[str]:
        """Files and rows that nobody will ask for and no clean-up has removed yet."""
        output = self.data / "files" / self._attempts()[-1].output_key
        known = {output, *output.parents, *(self.data / name for name in _DATA)}
        # not rglob: what is removed meanwhile is no error
        below = (Path(folder, name) for folder, *names in os.walk(self.data) for name in itertools.chain(*names))
        found = {str(path.relative_to(self.data)) for path in below if path not in known}
        rows = {table: self._count(table) for table in ("jobs", "idempotency", "webhooks")}
        return sorted(found) + [f"{count} {table}" for table, count in rows.items() if count != 1]

    def _webhook_secret(self) -> str:
        """As `keys webhook-secret` tells it."""
        signer = Signer(((self.data / "secret_key").read_text().strip(),))
        with opened(self.data) as store:
            [key] = store.api_keys()
        return webhook_secrets(signer, key.id, key, 0)[0]

    def insist(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> requests.Response:
        """The answer of a gateway that is up; a client asks until it has one."""
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
    """Who is told of a job's end, and may take it badly the first time."""

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
        """Whether the job's end was told, any number of times, under one id and signed by `secret`."""
        wrong = []
        for request in self.requests:
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                told = standardwebhooks.Webhook(secret).verify(request.body, headers)
            except standardwebhooks.WebhookVerificationError as error:
                wrong.append(f"a webhook that cannot be trusted: {error}")
                continue
            if (told["type"], told["data"]["jobId"]) != ("job.completed", job_id):
                wrong.append(f"a webhook that tells {told['type']} of {told['data']['jobId']}")
        ids = {request.headers["webhook-id"] for request in self.requests}
        if len(ids) != 1:
            wrong.append(f"{len(ids)} webhooks")
        return wrong


@contextmanager
def opened(data: Path) -> Iterator[Store]:
    """The store of a gateway's data folder."""
    engine = make_engine(f"sqlite:///{data / 'reelay.db'}", pool_size=1)
    try:
        yield Store(engine)
    finally:
        engine.dispose()


def leave_old_things(data: Path) -> None:
    """What a clean-up finds after forty days: a job with its output, and an upload that was cut."""
    now = int(time.time() * 1000) - 40 * 86_400_000
    job = Job(
        id=ids.new("job", now),
        key_id=ids.new("key", now),
        operation="adicionaAudio",
        status=JobStatus.COMPLETED,
        created_at=now,
        queued_at=now,
        timeout_s=600,
        queue_limit_s=3600,
        finished_at=now,
        webhook_url="http://example.com/hook",
    )
    attempt = Attempt(ids.new("att", now), job.id, "runpod", AttemptState.DONE, now, now, ended_at=now)
    job = replace(job, attempt_id=attempt.id, output_key=attempt.output_key)
    with opened(data) as store, store.transaction() as tx:
        tx.add_job(job, {})
        tx.add_attempt(attempt)
        tx.save_job(job)
        tx.save_webhook(Webhook(job.id, "example.com", webhooks.WebhookState.SUCCEEDED, tries=1))
        tx.claim_idempotency_key(job.key_id, "old", "", job.id, now=now, after=0)
    output = data / "files" / attempt.output_key
    output.parent.mkdir(parents=True)
    output.write_bytes(b"output")
    cut = data / "files/uploads" / job.key_id / ".part-cut"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"upl")
    os.utime(cut, (now / 1000, now / 1000))


def media(folder: Path) -> dict[str, bytes]:
    """A video of 64×64 pixels and 0.2 s, and a sound of 0.5 s."""
    video, audio = folder / "video.mp4", folder / "audio.m4a"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    subprocess.run([*make, "testsrc=s=64x64:r=25:d=0.2", *h264, video], check=True, timeout=30)
    subprocess.run([*make, "sine=f=440:d=0.5:r=48000", "-c:a", "aac", audio], check=True, timeout=30)
    return {path.name: path.read_bytes() for path in (video, audio)}


def counting(home: Path) -> Path:
    """A folder with an `ffmpeg` that notes each encode in `home/encodes` and becomes the real one."""
    folder = home / "bin"
    folder.mkdir()
    script = folder / "ffmpeg"
    note = f'case "$*" in *output-video.mp4) echo encode >> {home}/encodes;; esac'
    script.write_text(f'#!/bin/sh\n{note}\nexec {shutil.which("ffmpeg")} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def running_in(home: Path) -> list[str]:
    """Programs of FFmpeg that work in a folder below `home`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, folder = (process / "comm").read_text().strip(), (process / "cwd").readlink()
        except OSError:
            continue
        if name in {"ffmpeg", "ffprobe"} and folder.is_relative_to(home):
            found.append(f"{name} {process.name}")
    return found

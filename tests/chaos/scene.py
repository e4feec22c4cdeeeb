"""One job's whole life, again and again, with deaths wherever they are asked for; and what must hold afterwards."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from gateway.jobs import Attempt, State
from gateway.store import Store, make_engine
from handler import workdir
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.steps import Book, Plan, Point
from tests.emulators.runpod import Config, Emulator
from tests.servers import FileServer, Reply

KEY = "a-key-of-the-tests-alone"
# Far longer than a run takes: whoever has not ended by then never will.
PATIENCE_S = 40.0
WORKERS = 3  # so that nobody waits for the one that is started after a death
FINISHED = {"completed", "failed", "cancelled"}
Fault = Mapping[str, Any]


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass
class Outcome:
    """One run: what it did, and what was wrong afterwards (nothing, if all is well).

    `left`: files in the storage that nobody will ask for, of attempts that were given up and of uploads that were cut.
    """

    deaths: tuple[Point, ...]
    faults: tuple[Fault, ...]
    plan: Plan = field(default_factory=Plan)
    wrong: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    encodes: int = 0
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

    def __init__(self, home: Path) -> None:
        self.home = home
        self._book = Book(home)
        self._runs = 0

    def __enter__(self) -> Scene:
        self._files = FileServer()
        for name, body in media(self.home).items():
            self._files.routes[f"/{name}"] = Reply(body=body)
        self._zygote = Zygote()
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
                lost_after_s=3,
                command=(*Config.command[:2], "tests.chaos.worker"),
                env=env,
            )
        )
        self.runpod.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zygote.close()
        self.runpod.stop()
        self._files.close()

    def run(self, deaths: Iterable[Point] = (), faults: Iterable[Fault] = ()) -> Outcome:
        """One job from its submit to its output, and everything cleared up behind it."""
        outcome = Outcome(tuple(deaths), tuple(faults))
        # All of them where the steps are to be found: those of a worker that starts belong to no job.
        enough = 2 if outcome.deaths else WORKERS
        self._wait(lambda: self._idle() >= enough, "the workers did not start")
        self.encodes.unlink(missing_ok=True)
        for fault in outcome.faults:
            self.runpod.inject(**fault)
        self._runs += 1
        life = _Life(self, self.home / f"run-{self._runs}")
        began = time.monotonic()
        self._book.open(*outcome.deaths)
        gateway = self._zygote.start(life.environ)
        try:
            life.live()
            outcome.wrong, outcome.left = life.wrong()
        except Exception as error:
            outcome.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            outcome.plan = self._book.close()
            self._zygote.kill(gateway)
            self.runpod.faults.clear()
        outcome.encodes = self._encodes()
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
            self._wait(lambda: self._idle() >= 2, "the workers do not come back")
        except Broken as error:
            wrong.append(f"{error}: {self._work_left()} {running_in(self.home)}")
        counts = self.runpod.queue.counts()
        if counts["inQueue"] or counts["inProgress"]:
            wrong.append(f"left at RunPod: {counts}")
            self.runpod.queue.purge()
        return wrong

    def _idle(self) -> int:
        return self.runpod.fleet.counts()["idle"]

    def _work_left(self) -> list[str]:
        workdir.sweep(self.home / "work")  # what every worker begins with
        return [path.name for path in (self.home / "work").glob("attempt-*")]

    @staticmethod
    def _wait(check: Callable[[], bool], otherwise: str) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while not check():
            if time.monotonic() > ends_at:
                raise Broken(otherwise)
            time.sleep(0.02)


class _Life:
    """One job's life at a gateway that may be gone at any moment."""

    def __init__(self, scene: Scene, home: Path) -> None:
        self.home, self._data, port = home, home / "data", free_port()
        self._scene, self._url = scene, f"http://127.0.0.1:{port}"
        self._ends_at = time.monotonic() + PATIENCE_S
        self._ids: set[str] = set()
        self._job: dict[str, Any] = {}
        self._params = {"url_video": scene._files.url("/video.mp4"), "url_audio": scene._files.url("/audio.m4a")}
        self._data.mkdir(parents=True)
        self.environ = {
            **scene.runpod.gateway_environ,
            "PUBLIC_URL": self._url,
            "PORT": str(port),
            "DATA_DIR": str(self._data),
            "X_API_KEY": KEY,
            "MIN_FREE_DISK_PERCENT": "1",
            "CHAOS": str(scene.home),
            "LOG": str(home / "gateway.log"),
        }

    def live(self) -> None:
        """Submit until somebody acknowledges, follow to the end, fetch the output, wait until all is quiet."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self._insist("POST", "/video/adicionaAudio", json=self._params, headers=headers)
        self._job = answer.json()
        path = f"/jobs/{self._job['jobId']}"
        while self._job.get("status") not in FINISHED:
            self._job = self._insist("GET", path, headers={"Prefer": "wait=5"}).json()
            if time.monotonic() > self._ends_at:
                raise Broken(f"the job never ended: {self._job} {self._attempts()}")
        again = self._insist("POST", "/video/adicionaAudio", json=self._params, headers=headers).json()
        self._ids = {self._job["jobId"], again["jobId"]}
        if self._job["status"] != "completed":
            raise Broken(f"the job is {self._job['status']}: {self._job.get('error')} {self._attempts()}")
        output = self._insist("GET", self._job["video_url"].removeprefix(self._url)).content
        if len(output) != self._job["stats"]["size_bytes"] or output[4:8] != b"ftyp":
            raise Broken(f"the output has {len(output)} bytes and begins {output[:8]!r}")
        Scene._wait(self._quiet, "something goes on after the job's end")

    def wrong(self) -> tuple[list[str], list[str]]:
        """What the database and the storage hold that they should not, and what only a clean-up will remove."""
        wrong = []
        if len(self._ids) != 1 or self._jobs() != 1:
            wrong.append(f"{self._jobs()} jobs for one Idempotency-Key: {self._ids}")
        attempts = self._attempts()
        done = [attempt for attempt in attempts if attempt.state is State.DONE]
        if len(done) != 1 or not all(attempt.ended for attempt in attempts):
            wrong.append(f"attempts: {attempts}")
        files = {str(path.relative_to(self._data / "files")) for path in (self._data / "files").rglob("*.*")}
        left = files - {attempt.output_key for attempt in done}
        if unknown := {name for name in left if ".part-" not in name} - {attempt.output_key for attempt in attempts}:
            wrong.append(f"nobody's files: {sorted(unknown)}")
        # Here goes: one webhook id, of all that the job's receiver was sent.
        return wrong, sorted(left)

    def _insist(
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
            time.sleep(0.02)

    def _quiet(self) -> bool:
        counts = self._scene.runpod.queue.counts()
        if counts["inQueue"] or counts["inProgress"]:
            return False
        return self._one("SELECT count(*) FROM jobs WHERE next_at IS NOT NULL") == 0

    def _attempts(self) -> list[Attempt]:
        engine = make_engine(f"sqlite:///{self._data / 'reelay.db'}", pool_size=1)
        try:
            return Store(engine).attempts(self._job["jobId"])
        finally:
            engine.dispose()

    def _jobs(self) -> int:
        return self._one("SELECT count(*) FROM jobs")

    def _one(self, query: str) -> int:
        with closing(sqlite3.connect(self._data / "reelay.db", timeout=10)) as connection:
            return int(connection.execute(query).fetchone()[0])


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
    note = f'case "$*" in *output.mp4) echo encode >> {home}/encodes;; esac'
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

"""Runs of one job from submit to output, with processes killed at planned steps, and checks of what must hold."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import standardwebhooks

from gateway.access.keys import webhook_secrets
from gateway.domain.attempts import Attempt, AttemptState
from gateway.signing import Signer
from scripts.stack import free_port
from tests.chaos.gateway import Zygote
from tests.chaos.runs import Broken, Outcome, Stage
from tests.chaos.scenery import (
    FINISHED,
    assets,
    encodes,
    endpoint,
    insist,
    leave_old_things,
    opened,
    params,
    rows,
    running_in,
    settings,
    waiting_at,
)
from tests.chaos.steps import Point
from tests.chaos.worker import Workers
from tests.outputs import video_key
from tests.servers import Reply, Request

# Far longer than a run takes.
PATIENCE_S = 60.0
WORKERS = 2
HOOK = "/hook"
# The contents of a gateway's data folder beside files.
_DATA = {"reelay.db", "reelay.db-wal", "reelay.db-shm", ".reserve", ".migrate.lock", "secret_key", "files/uploads"}
Fault = Mapping[str, Any]
# Faults at RunPod, and of the webhook's receiver, that cost a job no try.
FAULTS: Mapping[str, Fault] = {
    "reply of run lost": {"kind": "lost_reply", "on": "run"},
    "reply of hand-over lost": {"kind": "lost_reply", "on": "hand-over"},
    "502 on status": {"kind": "status", "on": "status", "status": 502, "times": 3},
    "garbage on status": {"kind": "garbage", "on": "status", "times": 2},
    "run slow": {"kind": "slow", "on": "run", "seconds": 0.5},
    "job-done slow": {"kind": "slow", "on": "job-done", "seconds": 0.5},
    "reply of webhook lost": {"kind": "lost_reply", "on": "webhook"},
    "503 on webhook": {"kind": "status", "on": "webhook", "status": 503},
}


def wait(check: Callable[[], bool], otherwise: str) -> None:
    """Wait until `check` holds. Raises Broken after PATIENCE_S."""
    ends_at = time.monotonic() + PATIENCE_S
    while not check():
        if time.monotonic() > ends_at:
            raise Broken(otherwise)
        time.sleep(0.1)  # many scenes wait at once, and polling costs CPU


class Scene(Stage):
    """An endpoint at RunPod with warm workers, a file server of assets, and a gateway for each run."""

    def __init__(self, home: Path, gateways: Zygote, workers: Workers) -> None:
        home.mkdir()
        super().__init__(home)
        self._gateways, self._workers = gateways, workers

    def __enter__(self) -> Scene:
        self.files, self.receiver = assets(self.home), Receiver()
        self.files.routes[HOOK] = self.receiver
        self.runpod = endpoint(self.home, self.files, self._workers, WORKERS, {"CHAOS": str(self.home)})
        self.runpod.__enter__()
        self.first_start = self._make_past()
        return self

    def __exit__(self, *_: object) -> None:
        self.runpod.stop()
        self.files.close()

    def _make_past(self) -> list[Point]:
        """Start a gateway once to make the data folder that runs begin with; return the points of that start."""
        self._wait_for_workers()
        life = _Life(self, self.home / "first-start", fresh=True)
        self.book.open()
        gateway = self._gateways.start(life.environ)
        insist("GET", f"{life.url}/health")
        self._gateways.kill(gateway)
        points = self.book.close().points()
        leave_old_things(life.data)
        life.data.rename(self.past)
        return points

    def _carry_out(self, outcome: Outcome, home: Path) -> None:
        """Run one job from submit to output, and wait until everything is cleaned up."""
        self._wait_for_workers()
        (self.home / "encodes").unlink(missing_ok=True)
        fault = FAULTS[outcome.run.fault] if outcome.run.fault else None
        at_webhook = fault is not None and fault["on"] == "webhook"
        self.receiver.begin(fault if at_webhook else None)
        if fault and not at_webhook:
            self.runpod.inject(**fault)
        points = outcome.run.points
        fresh = bool(points) and points[0].name in {point.name for point in self.first_start}
        life = _Life(self, home, fresh=fresh)
        with self._planned(outcome):
            gateway = self._gateways.start(life.environ)
            try:
                life.live()
                outcome.wrong += life.wrong()
            finally:
                self._gateways.kill(gateway)
                self.runpod.faults.clear()
        outcome.counts.update(encodes=encodes(self.home), webhooks=len(self.receiver.requests))
        outcome.wrong += self._left(outcome)

    def _left(self, outcome: Outcome) -> list[str]:
        """Leftovers at the endpoint and in the workers' folders, and encodes too many."""
        wrong = []
        began = {process for process, _, step in outcome.plan.steps if "start ffmpeg " in step}
        # A worker that was killed after it had started FFmpeg leaves its work to be done again.
        limit = 1 + sum(process in began for process, _ in outcome.plan.died)
        if not 1 <= outcome.counts["encodes"] <= limit:
            wrong.append(f"{outcome.counts['encodes']} encodes, at most {limit} were needed")
        try:
            wait(lambda: not running_in(self.home), "FFmpeg is still running")
            wait(lambda: not self._work_left(), "private directories are left")
            self._wait_for_workers()
        except Broken as error:
            wrong.append(f"{error}: {self._work_left()} {running_in(self.home)}")
        if waiting_at(self.runpod):
            wrong.append(f"left at RunPod: {self.runpod.queue.counts()}")
            self.runpod.queue.purge()
        return wrong

    def _wait_for_workers(self) -> None:
        """Wait for idle workers, because the steps of a starting worker belong to no job."""
        wait(lambda: self.runpod.fleet.counts()["idle"] >= WORKERS, "the workers do not start")

    def _work_left(self) -> list[str]:
        return [path.name for path in (self.home / "work").glob("attempt-*")]


class _Life:
    """One job at a gateway that may be down at any moment."""

    def __init__(self, scene: Scene, home: Path, *, fresh: bool) -> None:
        self.data, port = home / "data", free_port()
        self._scene, self.url = scene, f"http://127.0.0.1:{port}"
        self._ends_at = time.monotonic() + PATIENCE_S
        self._ids: set[str] = set()
        self._job: dict[str, Any] = {}
        if fresh:
            self.data.mkdir(parents=True)
        else:
            shutil.copytree(scene.past, self.data)
        self.environ = {
            **scene.runpod.gateway_environ,
            **settings(port, self.data),
            "WEBHOOK_ALLOW_ORIGINS": scene.files.origin,
            "CHAOS": str(scene.home),
            "LOG": str(home / "gateway.log"),
        }

    def live(self) -> None:
        """Submit until the job is acknowledged, follow it to its end, fetch the output, wait until all is quiet."""
        url, headers = f"{self.url}/video/adicionaAudio", {"Idempotency-Key": str(uuid.uuid4())}
        body = {**params(self._scene.files), "webhook_url": self._scene.files.url(HOOK)}
        self._job = insist("POST", url, json=body, headers=headers).json()
        while self._job.get("status") not in FINISHED:
            self._job = insist("GET", f"{self.url}/jobs/{self._job['jobId']}", headers={"Prefer": "wait=5"}).json()
            if time.monotonic() > self._ends_at:
                raise Broken(f"the job never ended: {self._job} {self._attempts()}")
        again = insist("POST", url, json=body, headers=headers).json()
        self._ids = {self._job["jobId"], again["jobId"]}
        if self._job["status"] != "completed":
            raise Broken(f"the job is {self._job['status']}: {self._job.get('error')} {self._attempts()}")
        output = insist("GET", self._job["video_url"]).content
        if len(output) != self._job["stats"]["size_bytes"] or output[4:8] != b"ftyp":
            raise Broken(f"the output has {len(output)} bytes and begins {output[:8]!r}")
        wait(self._quiet, "work goes on after the job's end")
        try:
            wait(lambda: not self._left(), "something is left")
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
        counts = {table: self._count(table) for table in ("jobs", "idempotency", "webhooks")}
        return sorted(found) + [f"{count} {table}" for table, count in counts.items() if count != 1]

    def _webhook_secret(self) -> str:
        """The secret that `keys webhook-secret` prints."""
        signer = Signer(((self.data / "secret_key").read_text().strip(),))
        with opened(self.data) as store:
            [key] = store.api_keys()
        return webhook_secrets(signer, key.id, key, 0)[0]

    def _quiet(self) -> bool:
        due = self._count("jobs WHERE next_at > 0") + self._count("webhooks WHERE next_at > 0")
        return due + waiting_at(self._scene.runpod) == 0

    def _attempts(self) -> list[Attempt]:
        with opened(self.data) as store:
            return store.attempts(self._job["jobId"])

    def _count(self, of: str) -> int:
        return int(rows(self.data, f"SELECT count(*) FROM {of}")[0][0])


class Receiver:
    """The receiver of the webhook, which may fail the first time."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._fault: Fault | None = None

    def begin(self, fault: Fault | None) -> None:
        self.requests, self._fault = [], fault

    def __call__(self, request: Request) -> Reply:
        self.requests.append(request)
        fault, self._fault = self._fault, None
        if fault is None:
            return Reply()
        return Reply(drop=True) if fault["kind"] == "lost_reply" else Reply(fault["status"])

    def wrong(self, job_id: str, secret: str) -> list[str]:
        """What is wrong unless it got the job's end at least once, under one id and signed with `secret`."""
        wrong = []
        for request in self.requests:
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                event = standardwebhooks.Webhook(secret).verify(request.body, headers)
            except standardwebhooks.WebhookVerificationError as error:
                wrong.append(f"a webhook with a wrong signature: {error}")
                continue
            if (event["type"], event["data"]["jobId"]) != ("job.completed", job_id):
                wrong.append(f"a webhook of {event['type']} for {event['data']['jobId']}")
        ids = {request.headers["webhook-id"] for request in self.requests}
        if len(ids) != 1:
            wrong.append(f"{len(ids)} webhooks")
        return wrong

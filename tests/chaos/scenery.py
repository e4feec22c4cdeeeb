"""What scenes are made of: an endpoint, a gateway's settings and database, leftovers of an old life, an FFmpeg that counts."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from gateway.db.engine import make_engine
from gateway.db.store import Store
from gateway.domain import ids, webhooks
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook
from tests.chaos.runs import Broken
from tests.chaos.worker import Workers
from tests.emulators.runpod import Config, Emulator
from tests.outputs import stored_video, video_key
from tests.servers import FileServer, Reply

KEY = "a-key-of-the-tests-alone"
FINISHED = {"completed", "failed", "cancelled"}


def settings(port: int, data: Path) -> dict[str, str]:
    """The variables of a gateway at `port`."""
    return {
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
        "DATA_DIR": str(data),
        "X_API_KEY": KEY,
        "MIN_FREE_DISK_PERCENT": "1",
    }


def insist(
    method: str, *urls: str, patience_s: float = 60, headers: Mapping[str, str] | None = None, **more: Any
) -> requests.Response:
    """Call `urls` in turn until a gateway responds. Raises Broken after `patience_s`, or when it refuses the call."""
    ends_at = time.monotonic() + patience_s
    for url in itertools.cycle(urls):
        try:
            answer = requests.request(method, url, headers={"X-API-Key": KEY, **(headers or {})}, timeout=10, **more)
            if answer.status_code < 300:
                return answer
            refused, reason = answer.status_code < 500, f"{answer.status_code} {answer.text}"
        except requests.RequestException as error:
            refused, reason = False, str(error)
        if refused or time.monotonic() > ends_at:
            raise Broken(f"{method} {url}: {reason}")
        time.sleep(0.05)
    raise AssertionError("there is no URL")


def follow(body: Mapping[str, str], *urls: str) -> dict[str, Any]:
    """Submit a job to the gateways at `urls`; return it when it has finished."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    job = insist("POST", *(f"{url}/video/adicionaAudio" for url in urls), json=body, headers=headers).json()
    ends_at = time.monotonic() + 300
    while job["status"] not in FINISHED and time.monotonic() < ends_at:
        job = insist("GET", *(f"{url}/jobs/{job['jobId']}" for url in urls), headers={"Prefer": "wait=5"}).json()
    return dict(job)


def rows(data: Path, query: str) -> list[Any]:
    """What a query finds in the database of a gateway's data folder."""
    with closing(sqlite3.connect(data / "reelay.db", timeout=10)) as connection:
        return connection.execute(query).fetchall()


def assets(home: Path) -> FileServer:
    """A server with a video of 64×64 pixels and 0.2 s, and a sound of 0.5 s."""
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i"]
    h264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
    subprocess.run([*make, "testsrc=s=64x64:r=25:d=0.2", *h264, home / "video.mp4"], check=True, timeout=30)
    subprocess.run([*make, "sine=f=440:d=0.5:r=48000", "-c:a", "aac", home / "audio.m4a"], check=True, timeout=30)
    files = FileServer()
    for name in ("video.mp4", "audio.m4a"):
        files.routes[f"/{name}"] = Reply(body=(home / name).read_bytes())
    return files


def params(files: FileServer) -> dict[str, str]:
    """The body of a job with these assets."""
    return {"url_video": files.url("/video.mp4"), "url_audio": files.url("/audio.m4a")}


def endpoint(home: Path, files: FileServer, workers: Workers, count: int, env: Mapping[str, str]) -> Emulator:
    """An endpoint at RunPod with `count` workers, whose encodes are counted."""
    return Emulator(
        Config(
            min_workers=count,
            max_workers=count,
            cold_start_s=0,
            latency_ms=0,
            lost_after_s=5,
            crash_pause_s=0.1,
            command=workers.command,
            env={
                "FETCH_ALLOW_ORIGINS": files.origin,
                "PATH": f"{counting(home)}:{os.environ['PATH']}",
                "WORK_DIR": str(home / "work"),
                **env,
            },
        )
    )


@contextmanager
def opened(data: Path) -> Iterator[Store]:
    """The store in a gateway's data folder."""
    engine = make_engine(f"sqlite:///{data / 'reelay.db'}", pool_size=1)
    try:
        yield Store(engine)
    finally:
        engine.dispose()


def leave_old_things(data: Path) -> None:
    """Leave what a clean-up finds after forty days: a job with its output, and an interrupted upload."""
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
    job = replace(job, attempt_id=attempt.id, outputs=stored_video(attempt))
    with opened(data) as store, store.transaction() as tx:
        tx.add_job(job, "{}")
        tx.add_attempt(attempt)
        tx.save_job(job)
        tx.save_webhook(Webhook(job.id, job.key_id, "example.com", webhooks.WebhookState.SUCCEEDED, tries=1))
        tx.claim_idempotency_key(job.key_id, "old", "", job.id, now=now, after=0)
    output = data / "files" / video_key(attempt)
    output.parent.mkdir(parents=True)
    output.write_bytes(b"output")
    cut = data / "files/uploads" / job.key_id / ".part-cut"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(b"upl")
    os.utime(cut, (now / 1000, now / 1000))


def counting(home: Path) -> Path:
    """A folder with an `ffmpeg` that records each encode in `home/encodes` and runs the real one."""
    folder = home / "bin"
    folder.mkdir()
    script = folder / "ffmpeg"
    note = f'case "$*" in *"-f mp4 output-video.mp4"*) echo encode >> {home}/encodes;; esac'
    script.write_text(f'#!/bin/sh\n{note}\nexec {shutil.which("ffmpeg")} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def encodes(home: Path) -> int:
    """How many encodes were recorded."""
    file = home / "encodes"
    return len(file.read_text().splitlines()) if file.exists() else 0


def waiting_at(runpod: Emulator) -> int:
    """How many jobs RunPod has queued or runs."""
    counts = runpod.queue.counts()
    return counts["inQueue"] + counts["inProgress"]


def running_in(home: Path) -> list[int]:
    """The ids of the FFmpeg processes that run in a folder below `home`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, folder = (process / "comm").read_text().strip(), (process / "cwd").readlink()
        except OSError:
            continue
        if name in {"ffmpeg", "ffprobe"} and folder.is_relative_to(home):
            found.append(int(process.name))
    return found

"""What scenes are made of: media, the database of a gateway, leftovers of an old life, an FFmpeg that counts."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.db.engine import make_engine
from gateway.db.store import Store
from gateway.domain import ids, webhooks
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook
from tests.outputs import stored_video, video_key


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
        tx.add_job(job, {})
        tx.add_attempt(attempt)
        tx.save_job(job)
        tx.save_webhook(Webhook(job.id, "example.com", webhooks.WebhookState.SUCCEEDED, tries=1))
        tx.claim_idempotency_key(job.key_id, "old", "", job.id, now=now, after=0)
    output = data / "files" / video_key(attempt)
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
    """A folder with an `ffmpeg` that notes each encode in `home/encodes` and runs the real one."""
    folder = home / "bin"
    folder.mkdir()
    script = folder / "ffmpeg"
    note = f'case "$*" in *output-video.mp4) echo encode >> {home}/encodes;; esac'
    script.write_text(f'#!/bin/sh\n{note}\nexec {shutil.which("ffmpeg")} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def running_in(home: Path) -> list[str]:
    """The processes of FFmpeg that run in a folder below `home`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, folder = (process / "comm").read_text().strip(), (process / "cwd").readlink()
        except OSError:
            continue
        if name in {"ffmpeg", "ffprobe"} and folder.is_relative_to(home):
            found.append(f"{name} {process.name}")
    return found

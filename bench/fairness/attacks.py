"""What a key that does its worst does, one entry an attack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from bench.fairness.attacker import Assault, Call
from bench.fairness.scene import MAX_WORK_S, Scene
from bench.fairness.sizes import Sizes
from gateway.db.transaction import insert_jobs
from gateway.domain import ids
from gateway.domain.jobs import Job, JobStatus

UPLOAD_BYTES, DOWNLOAD_BYTES = 1_000_000, 24_000_000
MAX_BODY_BYTES, LARGE_BODY_BYTES = 950_000, 400_000
SLOW_JOBS, SLOW_S = 20, 2.0
WEBHOOKS_PER_HOST = 4
_URL = {"url_image": "https://example.com/photo.jpg"}
_LONG = {**_URL, "duration": MAX_WORK_S * 2}


@dataclass(frozen=True)
class Attack:
    """One attack of a key."""

    #: In the names of figures.
    name: str
    #: In the table.
    title: str
    #: Makes what the attack needs, before the victim is measured. Returns the attack.
    plan: Callable[[Scene, Sizes], Assault]
    #: Whether the gateway has one worker, which takes one job at a time.
    local: bool = False
    #: How long a victim's job may have to wait besides, because a worker is not taken from a job in progress.
    waits_s: float = 0.0
    #: Every so many requests, the victim submits a job.
    job_every: int = 10
    #: Whether the attacker's jobs are cancelled before the attack ends.
    ends_jobs: bool = False


def _uploads(connections: int) -> Callable[[Scene, Sizes], Assault]:
    def plan(scene: Scene, sizes: Sizes) -> Assault:
        call = Call("POST", "/files", "ID3")
        return _assault(scene, connections, call, holds=True, sends="x", states_bytes=UPLOAD_BYTES)

    return plan


def _downloads(connections: int) -> Callable[[Scene, Sizes], Assault]:
    def plan(scene: Scene, sizes: Sizes) -> Assault:
        body = b"ID3" + bytes(DOWNLOAD_BYTES)
        url = requests.post(f"{scene.stack.url}/files", data=body, headers=_key(scene), timeout=60).json()["url"]
        return _assault(scene, connections, Call("GET", _path(scene, url)), holds=True, reads=64)

    return plan


def _signed_downloads(scene: Scene, sizes: Sizes) -> Assault:
    headers = {**_key(scene), "Prefer": "wait=60"}
    job = requests.post(f"{scene.stack.url}/video/img2vid", json={**_URL, "duration": 0.1}, headers=headers, timeout=90)
    (output,) = (scene.data_dir / "files" / "outputs" / job.json()["jobId"]).rglob("*.mp4")
    Path(output).write_bytes(bytes(DOWNLOAD_BYTES))
    assault = _assault(scene, 64, Call("GET", _path(scene, job.json()["video_url"])), holds=True, reads=64)
    return Assault(**{**vars(assault), "api_key": ""})


def _waits(scene: Scene, sizes: Sizes) -> Assault:
    jobs = [_post(scene, _LONG) for _ in range(sizes.waits)]
    calls = [Call("GET", f"/jobs/{job}?wait=90") for job in jobs]
    return _assault(scene, sizes.waits, *calls, holds=True, again=False)


def _lists(scene: Scene, sizes: Sizes) -> Assault:
    params = {"url_video": "https://example.com/video.mp4", "words": _words(MAX_BODY_BYTES)}
    for _ in range(sizes.large_jobs):
        _insert(scene, 1, params)
    return _assault(scene, sizes.at_once, Call("GET", "/jobs?limit=200"))


def _disk(scene: Scene, sizes: Sizes) -> Assault:
    body = {"url_video": "https://example.com/video.mp4", "subtitles": "x" * LARGE_BODY_BYTES}
    return _assault(scene, sizes.at_once, Call("POST", "/video/caption", json.dumps(body)), cancels=True)


def _slow_jobs(scene: Scene, sizes: Sizes) -> Assault:
    call = Call("POST", "/video/img2vid", json.dumps({**_URL, "duration": SLOW_S}))
    return _assault(scene, 4, call, count=SLOW_JOBS)


def _webhooks(scene: Scene, sizes: Sizes) -> Assault:
    bodies = [{**_LONG, "webhook_url": origin} for origin in scene.silent.origins]
    calls = [Call("POST", "/video/img2vid", json.dumps(body)) for body in bodies]
    return _assault(scene, 8, *calls, cancels=True, count=WEBHOOKS_PER_HOST * len(calls))


def _refused(scene: Scene, sizes: Sizes) -> Assault:
    words = _words(MAX_BODY_BYTES)
    words[-1]["end"] = 0.0
    body = json.dumps({"url_video": "https://example.com/video.mp4", "words": words}, separators=(",", ":"))
    return _assault(scene, sizes.at_once, Call("POST", "/video/caption", body))


def _filters(scene: Scene, sizes: Sizes) -> Assault:
    _insert(scene, sizes.rows, _URL)
    return _assault(scene, sizes.at_once, Call("GET", "/jobs?status=failed"))


def _heads(scene: Scene, sizes: Sizes) -> Assault:
    return _assault(scene, sizes.slow_heads, Call("GET", "/health"), holds=True, sends="x", states_bytes=0)


def _backlog(scene: Scene, sizes: Sizes) -> Assault:
    return _assault(scene, sizes.at_once, Call("POST", "/video/img2vid", json.dumps(_LONG)))


ATTACKS = (
    Attack("uploads_4", "4 trickled uploads", _uploads(4)),
    Attack("uploads_64", "64 trickled uploads", _uploads(64)),
    Attack("downloads_4", "4 trickled downloads", _downloads(4)),
    Attack("downloads_64", "64 trickled downloads", _downloads(64)),
    Attack("signed_downloads", "64 trickled downloads by a signed URL", _signed_downloads),
    Attack("waits", "100 waits", _waits, ends_jobs=True),
    Attack("lists", "lists of jobs with 950 kB of params, 64 at once", _lists),
    Attack("disk", "jobs of 400 kB, cancelled at once, 64 at a time", _disk),
    Attack("slow_jobs", "20 slow jobs at one worker", _slow_jobs, local=True, waits_s=SLOW_S + 0.5, job_every=50),
    Attack("webhooks", "webhooks to 96 silent hosts", _webhooks),
    Attack("refused", "bodies of 950 kB that are refused, 64 at once", _refused),
    Attack("filters", "filters without hits in 20,000 jobs, 64 at once", _filters),
    Attack("heads", "400 slow heads", _heads),
    Attack("backlog", "jobs as fast as the rate limit allows, 64 at once", _backlog),
)


def _assault(scene: Scene, connections: int, *calls: Call, **more: Any) -> Assault:
    return Assault(scene.stack.port, scene.secret, connections, calls, **more)


def _key(scene: Scene) -> dict[str, str]:
    return {"X-API-Key": scene.secret}


def _path(scene: Scene, url: str) -> str:
    return url.removeprefix(scene.stack.url)


def _post(scene: Scene, body: Mapping[str, Any]) -> str:
    """Submit a job of the attacker; return its id."""
    made = requests.post(f"{scene.stack.url}/video/img2vid", json=body, headers=_key(scene), timeout=60)
    return str(made.json()["jobId"])


def _insert(scene: Scene, count: int, params: dict[str, Any]) -> None:
    """Insert unfinished jobs of the attacker that no dispatcher touches."""
    now = 1_700_000_000_000
    made = [
        Job(ids.new("job", now), scene.key_id, "caption", JobStatus.QUEUED, now, now, timeout_s=600, queue_limit_s=3600)
        for _ in range(count)
    ]
    with scene.store.transaction() as tx:
        insert_jobs(tx, [(job, json.dumps(params), None) for job in made])


def _words(size: int) -> list[dict[str, Any]]:
    """Words that take about `size` bytes as JSON."""
    word = {"word": "x" * 12, "start": 1.0, "end": 1.5}
    return [dict(word) for _ in range(size // len(json.dumps(word, separators=(",", ":")) + ","))]

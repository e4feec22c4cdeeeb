"""How soon the end of a RunPod job is noticed, and with how many calls, compared with a simple loop over `/status`.

The stand-in for RunPod takes 150 ms for every call and runs four real workers. Eight clients run one job at a time, a
hundred in all. A job is complete when its output is stored. Theirs: a loop that submits the job and polls every 2 s.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from bench import cold_start
from bench.figures import TIMEOUT_S, Figure, completed, rounded
from scripts.stack import ROOT, Stack, free_port
from tests.emulators.runpod import Config, Emulator
from tests.servers import Reply, eventually, file_server

JOBS, IN_FLIGHT, WORKERS = 100, 8, 4
PARAMS = {"duration": 1}
LOOP_S = 2.0
SUBMITS = 300
BILLED = ("run", "status", "cancel", "health")


def measure() -> list[Figure]:
    with file_server() as files, tempfile.TemporaryDirectory(prefix="reelay-bench-") as folder:
        files.routes["/photo.jpg"] = Reply(body=(ROOT / "samples/photo.jpg").read_bytes())
        photo = files.url("/photo.jpg")
        pushed, _ = _gateway(Path(folder) / "pushed", photo, events=True)
        looped, their_calls = _loop(Path(folder) / "loop", photo)
        polled, our_calls = _gateway(Path(folder) / "polled", photo, events=False)
        submits = _submits(Path(folder) / "submits")
    loop_ms = statistics.median(looped)
    return [
        _seen("runpod.seen_ms_p50", statistics.median(pushed), "< 150", "from the worker's completion to the client's"),
        _seen("runpod.seen_ms_p95", _p95(pushed), "", "the same, 95th percentile"),
        _seen("runpod.loop_ms_p50", loop_ms, "", "the same with the loop"),
        _seen("runpod.polled_ms_p50", statistics.median(polled), "≤ the loop's", "the same of ours, events off"),
        Figure("runpod.seen_ratio", rounded(loop_ms / statistics.median(pushed)), "×", "", "the loop's ÷ ours"),
        Figure("runpod.calls_ratio", rounded(their_calls / our_calls), "×", "≥ 2", "calls to RunPod a job, events off"),
        Figure("runpod.submits_per_s", rounded(submits), "1/s", "≥ 50", "from the first request to the last `/run`"),
        *cold_start.measure(),
    ]


def _endpoint(*origins: str, **config: Any) -> Emulator:
    env = {"FETCH_ALLOW_ORIGINS": ",".join(origins)}
    workers = {"min_workers": WORKERS, "max_workers": WORKERS, "cold_start_s": 0, "queue_delay_s": 0}
    return Emulator(Config(env=env, **{**workers, **config}))


def _gateway(folder: Path, photo: str, *, events: bool) -> tuple[list[float], float]:
    """Milliseconds until the end of each job was noticed, and calls to RunPod per job."""
    port = free_port()
    with _endpoint(f"http://127.0.0.1:{port}", photo.rpartition("/")[0]) as runpod:
        _warm(runpod)
        environ = {**runpod.gateway_environ, "WORKER_EVENTS": str(events).lower(), "THREADS": "32"}
        with Stack(folder / "data", folder / "logs", port=port, environ=environ) as stack:
            runpod.reset_calls()

            def follow() -> float:
                job_id, seen_at = completed(stack, {"url_image": photo, **PARAMS}), time.time()
                (stored,) = (folder / "data" / "files" / "outputs" / job_id).glob("*/*.mp4")
                return _since(stored, seen_at)

            return _hundred(f"gateway, events {'on' if events else 'off'}", follow, runpod)


def _loop(folder: Path, photo: str) -> tuple[list[float], float]:
    with _endpoint(photo.rpartition("/")[0], home=folder) as runpod:
        _warm(runpod)
        runpod.reset_calls()
        http = requests.Session()
        http.headers["Authorization"] = f"Bearer {runpod.config.api_key}"

        def follow() -> float:
            job_input = {"operation": "img2vid", "url_image": photo, **PARAMS}
            job = http.post(f"{runpod.endpoint_url}/run", json={"input": job_input}, timeout=TIMEOUT_S).json()
            while job["status"] in {"IN_QUEUE", "IN_PROGRESS"}:
                time.sleep(LOOP_S)
                job = http.get(f"{runpod.endpoint_url}/status/{job['id']}", timeout=TIMEOUT_S).json()
            seen_at = time.time()
            return _since(Path(job["output"]["outputs"]["video"]["path"]), seen_at)

        return _hundred("loop", follow, runpod)


def _since(stored: Path, seen_at: float) -> float:
    return (seen_at - stored.stat().st_mtime) * 1000


def _hundred(what: str, follow: Callable[[], float], runpod: Emulator) -> tuple[list[float], float]:
    started = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        seen = list(pool.map(lambda _: follow(), range(JOBS)))
    calls = sum(runpod.calls[kind] for kind in BILLED) / JOBS
    print(
        f"{what}: seen after {statistics.median(seen):.0f} ms, 95 % {_p95(seen):.0f} ms, {calls:.2f} calls a job,"
        f" {time.monotonic() - started:.0f} s in all",
        file=sys.stderr,
    )
    return seen, calls


def _submits(folder: Path) -> float:
    """Jobs per second from the HTTP request to `/run`, without workers."""
    with _endpoint("http://127.0.0.1", min_workers=0, max_workers=0, max_queued=SUBMITS) as runpod:
        environ = {**runpod.gateway_environ, "THREADS": "32"}
        with Stack(folder / "data", folder / "logs", environ=environ) as stack, ThreadPoolExecutor(16) as pool:
            job = {"url_image": "http://example.com/photo.jpg"}
            headers = {"X-API-Key": stack.api_key}
            url = f"{stack.url}/video/img2vid"
            started = time.monotonic()
            for answer in pool.map(lambda _: requests.post(url, json=job, headers=headers, timeout=30), range(SUBMITS)):
                answer.raise_for_status()
            eventually(lambda: runpod.queue.counts()["inQueue"] >= SUBMITS)
            return SUBMITS / (time.monotonic() - started)


def _warm(runpod: Emulator) -> None:
    """Wait until all workers are idle."""
    eventually(lambda: runpod.fleet.counts()["idle"] >= WORKERS)
    time.sleep(3)  # until the workers have warmed up


def _seen(name: str, ms: float, target: str, meaning: str) -> Figure:
    return Figure(name, round(ms), "ms", target, meaning)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]

"""`make demo`: four jobs, from submit to download, on this machine and with the samples.

`make demo-cloud` does the same with a stand-in for RunPod that runs real workers and needs no account. With
`FAIL=runpod` RunPod accepts no job, and a stand-in for Vast.ai does them all.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from scripts.client import ApiError, Client
from scripts.stack import ROOT, Stack, StackError, free_port

if TYPE_CHECKING:
    from tests.emulators import vast

SAMPLES = ROOT / "samples"
OUTPUT = ROOT / "demo-output"
LIMIT_S = 120
# Seconds at the stand-in for Vast.ai; in production they are 90 and 300.
BOOT_S, IDLE_S = 5, 10

SPOKEN = """\
1
00:00:02,950 --> 00:00:04,980
A very big rabbit climbs out of his burrow,

2
00:00:05,230 --> 00:00:05,870
stretches,

3
00:00:06,220 --> 00:00:07,840
and takes a deep breath of morning air.
"""
FILM: dict[str, Any] = {
    "scenes": [
        {
            "url_image": SAMPLES / "photo.jpg",
            "duration": 2.5,
            "transition": {"type": "fade", "duration": 0.6},
            "overlays": [
                {
                    "text": "Meanwhile,\nin the forest",
                    "position": "top-center",
                    "safe_area": True,
                    "start": 0.4,
                    "fade": 0.4,
                    "style": {"preset": "bold", "size": 0.05},
                }
            ],
        },
        {
            "url_video": SAMPLES / "video.mp4",
            "narration": {"url_audio": SAMPLES / "narration.mp3", "start": 0.3},
            "transition": {"type": "slide_left"},
        },
        {
            "url_video": SAMPLES / "video.mp4",
            "start": 3,
            "duration": 2,
            "fit": "contain",
            "volume": 0,
            "transition": {"type": "crossfade"},
        },
        {
            "color": "#1B3A2B",
            "duration": 2,
            "transition": {"type": "wipe", "duration": 0.6},
            "overlays": [
                {"text": "One request,\none film", "style": {"size": 0.06}},
                {
                    "url_image": SAMPLES / "photo.jpg",
                    "position": "bottom-center",
                    "width": 0.3,
                    "start": 0.6,
                    "fade": 0.3,
                },
            ],
        },
    ],
    "music": {"url_audio": SAMPLES / "music.mp3"},
    "captions": {"subtitles": SPOKEN, "style": {"preset": "pop"}},
    "fade_out": 0.8,
    "loudness": -16,
}
JOBS: dict[str, dict[str, Any]] = {
    "caption": {"url_video": SAMPLES / "video.mp4", "url_srt": SAMPLES / "legendas.pt.srt"},
    "img2vid": {"url_image": SAMPLES / "photo.jpg", "duration": 5, "frame_rate": 24},
    "adicionaAudio": {"url_video": SAMPLES / "video.mp4", "url_audio": SAMPLES / "narration.mp3"},
    "compose": FILM,
}


class DemoError(Exception):
    """A job failed or did not finish."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--cloud", action="store_true", help="use a stand-in for RunPod")
    parser.add_argument(
        "--fail", choices=["runpod"], help="RunPod accepts no job, so that Vast.ai does them; with --cloud"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"for videos and logs (default: {OUTPUT.name})")
    chosen = parser.parse_args()
    if chosen.fail and not chosen.cloud:
        parser.error("--fail needs --cloud")
    way = (_fallback if chosen.fail else _cloud) if chosen.cloud else _laptop
    console = Console(highlight=False, soft_wrap=True)
    if not chosen.output:
        shutil.rmtree(OUTPUT, ignore_errors=True)
    output: Path = chosen.output or OUTPUT
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reelay-demo-") as data:
        try:
            with way(Path(data), output / "logs", console) as stack:
                _run(stack, output, console)
        except (StackError, DemoError, ApiError, requests.RequestException) as error:
            console.print(f"The demo failed: {error}", markup=False)
            console.print(f"Logs are in {output / 'logs'}.")
            return 1
        except KeyboardInterrupt:
            console.print("Stopped.")
            return 130
    console.print("Gateway and worker have stopped, so these URLs no longer work; `make run` keeps them running.")
    return 0


@contextmanager
def _laptop(data: Path, logs: Path, console: Console) -> Iterator[Stack]:
    with Stack(data, logs) as stack:
        console.print(f"Gateway at {stack.url}, worker at port {stack.worker_port}.")
        yield stack


@contextmanager
def _cloud(data: Path, logs: Path, console: Console) -> Iterator[Stack]:
    from tests.emulators.runpod import Config, Emulator

    port = free_port()
    env = {"FETCH_ALLOW_ORIGINS": f"http://127.0.0.1:{port}", "RUNPOD_GPU_NAME": "NVIDIA+L4"}
    with (
        Emulator(Config(env=env, home=logs / "runpod")) as runpod,
        Stack(data, logs, port=port, environ=runpod.gateway_environ) as stack,
    ):
        console.print(f"Gateway at {stack.url}, stand-in for RunPod at {runpod.endpoint_url}.")
        console.print("Its workers start when there is work, with a cold start of three seconds.")
        yield stack
        calls = sum(runpod.calls[kind] for kind in ("run", "status", "cancel", "health"))
        console.print(f"The gateway made {calls} calls to RunPod.")


@contextmanager
def _fallback(data: Path, logs: Path, console: Console) -> Iterator[Stack]:
    from tests.emulators import runpod, vast

    port = free_port()
    env = {"FETCH_ALLOW_ORIGINS": f"http://127.0.0.1:{port}"}
    with (
        runpod.Emulator(runpod.Config(home=logs / "runpod")) as first,
        vast.Emulator(vast.Config(env=env, home=logs / "vast", boot_s=BOOT_S)) as second,
    ):
        first.inject("status", "run", status=402, times=None)
        rented = {"PROVIDERS": "runpod,vast", "VAST_IDLE_TIMEOUT": str(IDLE_S)}
        environ = {**first.gateway_environ, **second.gateway_environ, **rented}
        with Stack(data, logs, port=port, environ=environ) as stack:
            console.print(f"Gateway at {stack.url}, stand-ins for RunPod at {first.url} and Vast.ai at {second.url}.")
            console.print(f"RunPod refuses for lack of payment. A machine at Vast.ai takes {BOOT_S} s to boot.")
            yield stack
            refused = first.calls["run"]
            console.print(f"RunPod refused {refused} times. Machines are destroyed after {IDLE_S} s without a job:")
            _await_end(second)
            bill = second.bill()
            console.print(f"{bill['created']} were rented and paid for {bill['paid_s']:.0f} s in all; none is left.")


def _await_end(vast: vast.Emulator) -> None:
    ends_at = time.monotonic() + LIMIT_S
    while vast.alive():
        if time.monotonic() > ends_at:
            raise DemoError(f"{len(vast.alive())} rented machines still exist")
        time.sleep(0.2)


def _run(stack: Stack, output: Path, console: Console) -> None:
    client = Client(stack.url, stack.api_key)
    try:
        urls = {path: client.upload(path) for path in sorted(SAMPLES.iterdir()) if _names(JOBS, path)}
        jobs = {operation: client.submit(operation, _with_urls(params, urls)) for operation, params in JOBS.items()}
        finished = _follow(client, stack, jobs, console)
        for operation, job in finished.items():
            _save(client, job, output / f"{operation}.mp4", console)
    finally:
        client.close()


def _names(params: Any, path: Path) -> bool:
    """Whether params name a file at any depth."""
    if isinstance(params, dict | list):
        return any(_names(each, path) for each in (params.values() if isinstance(params, dict) else params))
    return bool(params == path)


def _with_urls(params: Any, urls: dict[Path, str]) -> Any:
    """The params with the URL of each file in its place."""
    if isinstance(params, dict):
        return {name: _with_urls(value, urls) for name, value in params.items()}
    if isinstance(params, list):
        return [_with_urls(value, urls) for value in params]
    return urls[params] if isinstance(params, Path) else params


def _follow(
    client: Client, stack: Stack, jobs: dict[str, dict[str, Any]], console: Console
) -> dict[str, dict[str, Any]]:
    """Show a bar per job until all have ended."""
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[status]:9}"),
    )
    ends_at = time.monotonic() + LIMIT_S
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bars = {operation: progress.add_task(operation, total=1.0, status="queued") for operation in jobs}
        while True:
            stack.check()
            jobs = {operation: _look(client, job) for operation, job in jobs.items()}
            for operation, job in jobs.items():
                _show(progress, bars[operation], job, console)
            if all(job["status"] not in {"queued", "running"} for job in jobs.values()):
                return jobs
            if time.monotonic() > ends_at:
                raise DemoError(
                    f"not finished after {LIMIT_S} s: { {name: job['status'] for name, job in jobs.items()} }"
                )
            time.sleep(0.2)


def _look(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    return client.job(job["jobId"]) if job["status"] in {"queued", "running"} else job


def _show(progress: Progress, bar: TaskID, job: dict[str, Any], console: Console) -> None:
    task = progress.tasks[bar]
    if not console.is_terminal and (task.fields["status"], round(task.completed, 1)) != (
        job["status"],
        round(job["progress"], 1),
    ):
        filled = round(job["progress"] * 20)
        console.print(f"{job['operation']:14} {'#' * filled:.<20} {job['progress']:4.0%} {job['status']}")
    progress.update(bar, completed=job["progress"], status=job["status"])
    if job["status"] not in {"queued", "running"}:
        progress.stop_task(bar)


def _save(client: Client, job: dict[str, Any], path: Path, console: Console) -> None:
    operation = job["operation"]
    if job["status"] != "completed":
        error = job.get("error", {})
        raise DemoError(f"{operation} ended as {job['status']}: {error.get('code')}: {error.get('message')}")
    client.download(job["video_url"], path)
    stats = job["stats"]
    if path.stat().st_size != stats["size_bytes"]:
        raise DemoError(f"{operation}: {path.stat().st_size} bytes were downloaded, {stats['size_bytes']} were made")
    cost = f", ${stats['cost_usd']:.6f} and at most ${stats['idle_cost_usd']:.6f} idle" if stats["cost_usd"] else ""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    console.print(
        f"{shown}: {stats['duration_s']:.2f} s of {stats['width']}x{stats['height']} video"
        f" in {stats['processing_s']:.2f} s, encoder {stats['encoder']} ({stats['device']}),"
        f" {stats['size_bytes'] / 1e6:.2f} MB{cost}\n  {job['video_url']}",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())

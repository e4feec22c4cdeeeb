"""One attempt with a hostile input, and what must hold however it ends."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffmpeg_ops.engine import confined
from handler.attempt import run_attempt
from handler.settings import Settings
from tests.handler.support import FOREVER_S, children
from tests.servers import STOP_S, eventually
from wire.errors import JobError

MEMORY_KB = 1_500_000_000 // 1024
TIMEOUT_S = 20
# `worker_error` would mean a case that the worker does not handle.
EXPECTED = frozenset(
    [
        "asset_invalid",
        "asset_too_large",
        "asset_empty",
        "asset_has_no_audio",
        "asset_unavailable",
        "asset_not_found",
        "encode_failed",
        "output_too_large",
        "job_too_large",
        "job_timeout",
    ]
)


@dataclass
class Outcome:
    """`code` is `completed` or that of the error; `memory_kb` is the most that any process took."""

    code: str
    message: str
    seconds: float
    memory_kb: int
    output: Path | None = None


def endure(raw: dict[str, Any], settings: Settings, timeout_s: int = TIMEOUT_S) -> Outcome:
    """Run the attempt; check that it ends in time with an expected code, within memory, without leftovers."""
    confined.start()  # it stays
    threads, files, before = _threads(), _files(), set(children(os.getpid()))
    _forget_peak()
    before_kb = _memory_kb("VmRSS")
    children_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    began_at = time.monotonic()
    outcome = _run(raw, settings, timeout_s)
    outcome.seconds = time.monotonic() - began_at
    assert outcome.code in {"completed", *EXPECTED}, outcome
    assert outcome.seconds < 2 * timeout_s + FOREVER_S, outcome  # ended by its own limit
    eventually(lambda: set(children(os.getpid())) <= before, STOP_S)
    eventually(lambda: _threads() <= threads, STOP_S)
    eventually(lambda: _files() <= files, STOP_S)
    assert [path.name for path in settings.work_dir.glob("attempt-*")] == []
    now_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # What the tests before it have left in this process is not the attempt's.
    outcome.memory_kb = max(_peak_kb() - before_kb, now_kb if now_kb > children_kb else 0)
    assert outcome.memory_kb < MEMORY_KB, outcome
    if outcome.output is not None:
        assert frames(outcome.output), "the video must play"
    return outcome


def _threads() -> int:
    return sum(thread.name != "watch" for thread in threading.enumerate())  # shared by all calls, and stays


def limits(raw: dict[str, Any], timeout_s: int) -> dict[str, Any]:
    """`raw` with a delivery of limits only."""
    limits = {"max_asset_bytes": 100_000_000, "max_output_bytes": 100_000_000, "timeout_s": timeout_s}
    delivery = {"job_id": "job_1", "attempt_id": "att_1", "deadline": "2099-01-01T00:00:00Z"}
    return {**raw, "delivery": {**delivery, "limits": limits}}


def frames(video: Path) -> bytes:
    """All frames of a video, small and grey, in which a planted picture would show."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", video, "-frames:v", "200", "-f", "rawvideo"]
    return subprocess.run(
        [*command, "-pix_fmt", "gray", "-vf", "scale=96:-2", "-"], check=True, capture_output=True, timeout=60
    ).stdout


def _run(raw: dict[str, Any], settings: Settings, timeout_s: int) -> Outcome:
    try:
        result = run_attempt(limits(raw, timeout_s), settings)
    except JobError as error:
        assert error.message and "Traceback" not in error.message and str(settings.work_dir) not in error.message
        return Outcome(error.code, error.message, 0.0, 0)
    return Outcome("completed", "", 0.0, 0, Path(result["outputs"]["video"]["path"]))


def _files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_kb() -> int:
    return _memory_kb("VmHWM")


def _memory_kb(which: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{which}:"))

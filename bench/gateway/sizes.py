"""The sizes of this benchmark, and helpers for its parts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import RUNS
from bench.gateway.client import request
from scripts.stack import Stack
from tests.emulators.runpod import Config, Emulator

CORES = 2
# Requests and jobs are counted as in production, but no benchmark reaches these limits.
LIMITS = {"RATE_LIMIT_PER_KEY": "10000000", "MAX_JOBS_PER_KEY": "10000000"}
JOB = json.dumps({"url_image": "https://example.com/photo.jpg"})


@dataclass(frozen=True)
class Sizes:
    """`requests`: after how many memory is measured. `ending_s`: how long jobs end while `in_flight` are waiting."""

    runs: int = RUNS
    seconds: float = 4.0
    connections: int = 16
    warm_up: int = 2_000
    requests: int = 100_000
    in_flight: int = 5_000
    ending_s: float = 30.0


@contextmanager
def gateway(folder: Path, **environ: str) -> Iterator[tuple[Stack, Emulator]]:
    """A gateway on CORES cores, and its endpoint, without workers and with limits that are never reached."""
    with Emulator(Config(max_workers=0, max_queued=10_000_000)) as runpod:
        stack = Stack(folder / "data", folder / "logs", environ={**runpod.gateway_environ, **LIMITS, **environ})
        with on_few_cores():
            stack.__enter__()
        try:
            yield stack, runpod
        finally:
            stack.stop()


@contextmanager
def on_few_cores() -> Iterator[None]:
    """Bind processes that are started inside to CORES cores."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:CORES])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def post(stack: Stack) -> str:
    """The request that submits a job."""
    return request("POST", "/video/img2vid", {"X-API-Key": stack.api_key}, JOB)


def tree_mb(pid: int) -> float:
    """Memory of a process and its descendants, in which shared pages count once (PSS)."""
    try:
        rows = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        own = next(int(row[1]) for row in rows if row[0] == "Pss:") * 1024 / 1e6
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return 0.0
    return own + sum(tree_mb(int(child)) for child in children)

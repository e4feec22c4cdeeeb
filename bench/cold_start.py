"""The time from the start of a RunPod worker to its first job-take."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from bench.figures import RUNS, Figure
from scripts.stack import ROOT
from tests.emulators.runpod import Config, Emulator
from tests.emulators.runpod.worker_api import environment
from tests.servers import eventually


def measure() -> list[Figure]:
    median_s = statistics.median(first_take_s() for _ in range(RUNS))
    return [Figure("worker.cold_start_s", round(median_s, 3), "s", "≤ 1.2", "process start to first job-take")]


def first_take_s() -> float:
    """Seconds from the start of `python -m handler` to its first job-take, at an endpoint without jobs."""
    with Emulator(Config(max_workers=0)) as runpod, tempfile.TemporaryDirectory() as folder:
        given = environment(runpod.endpoint_url, "worker", runpod.config)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "PYTHONPATH": str(ROOT),
            "WORK_DIR": f"{folder}/work",
            **{name: value for name, value in given.items() if "_SKIP_" not in name},
        }
        started = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-m", "handler"],
            cwd=folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            eventually(lambda: runpod.calls["job-take"])
            return time.perf_counter() - started
        finally:
            os.killpg(worker.pid, signal.SIGKILL)  # together with its child, which sends the pings
            worker.wait()

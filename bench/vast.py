"""The machine time paid for jobs on rented machines, and their duration, compared with one machine for each job.

30 jobs of 10 s, three at a time, on a stand-in for Vast.ai with its rate limits, a boot of 20 s, and workers that speak
the real protocol and wait instead of encoding. Runs are in real time, so that latencies keep their weight, and
concurrent. Ours: a gateway that may rent three machines. Theirs: the sequence in Vast.ai's documentation (search,
create, poll the machine, poll the job, destroy) for each job, in three threads that share one key and our client.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.figures import RUNS, TIMEOUT_S, Figure, completed
from gateway.providers.base import Accepted, JobInput, Phase, Unavailable
from gateway.providers.clouds.vast.client import VastCloud
from gateway.providers.clouds.vast.settings import VastSettings
from gateway.providers.rental import labels
from gateway.providers.rental.cloud import Order, Status
from gateway.providers.rental.environment import PORT, environment
from gateway.providers.rental.workers import rented_worker
from gateway.providers.worker_client import WorkerClient
from gateway.signing import Signer
from scripts.stack import Stack
from tests.emulators.vast import Config, Emulator
from tests.servers import eventually

Answer = TypeVar("Answer")

JOBS, AT_ONCE = 30, 3
BOOT_S, JOB_S = 20, 10
IDLE_S = 300
LOOK_S, POLL_S = 3.0, 1.0  # polling intervals: at Vast.ai, at the worker
PARAMS = {"url_image": "http://example.com/photo.jpg", "duration": 1}


@dataclass(frozen=True)
class Run:
    """The measurements of one run."""

    #: Billed machine-seconds until the last job was done.
    paid_s: float
    #: Billed machine-seconds after that.
    idle_s: float
    #: Seconds until the last job was done.
    wall_s: float
    #: Machines that were rented.
    machines: int


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="reelay-bench-") as folder, ThreadPoolExecutor(2 * RUNS) as threads:
        ours = [threads.submit(_ours, Path(folder) / f"ours-{n}") for n in range(RUNS)]
        theirs = [threads.submit(_theirs, Path(folder) / f"theirs-{n}") for n in range(RUNS)]
        our_runs, their_runs = [run.result() for run in ours], [run.result() for run in theirs]
    for name, runs in (("ours", our_runs), ("theirs", their_runs)):
        for run in runs:
            print(f"{name}: {run}", file=sys.stderr)
    paid = [median(runs, lambda run: run.paid_s) for runs in (our_runs, their_runs)]
    wall = [median(runs, lambda run: run.wall_s) for runs in (our_runs, their_runs)]
    idle_s = median(our_runs, lambda run: run.idle_s)
    return [
        Figure("vast.paid_ratio", round(paid[0] / paid[1], 3), "", "≤ 0.5", "machine-seconds paid, ours ÷ theirs"),
        Figure("vast.wall_ratio", round(wall[0] / wall[1], 3), "", "≤ 0.5", "until all jobs are done, ours ÷ theirs"),
        Figure("vast.paid_s", round(paid[0], 1), "s", "", "ours: from each creation until all jobs are done"),
        Figure("vast.their_paid_s", round(paid[1], 1), "s", "", "theirs, from each creation to its end"),
        Figure("vast.wall_s", round(wall[0], 1), "s", "", "ours, from the first request on"),
        Figure("vast.their_wall_s", round(wall[1], 1), "s", "", "theirs, until the last machine is gone"),
        Figure("vast.idle_s", round(idle_s, 1), "s", "", f"ours, paid after that: {IDLE_S} s of each machine"),
    ]


def median(runs: list[Run], of: Callable[[Run], float]) -> float:
    return statistics.median(map(of, runs))


def _platform(home: Path) -> Emulator:
    return Emulator(Config(pretend=True, boot_s=BOOT_S, job_s=JOB_S, home=home / "vast"))


def _ours(folder: Path) -> Run:
    with _platform(folder) as vast:
        rented = {"VAST_MAX_INSTANCES": str(AT_ONCE), "VAST_IDLE_TIMEOUT": str(IDLE_S)}
        environ = {**vast.gateway_environ, **rented}
        with Stack(folder / "data", folder / "logs", environ=environ) as stack:
            wall_s = _all_jobs(lambda _: completed(stack, PARAMS))
            paid_s = vast.bill()["paid_s"]
            eventually(lambda: not vast.alive(), TIMEOUT_S)
            bill = vast.bill()
            return Run(paid_s, bill["paid_s"] - paid_s, wall_s, bill["created"])


def _theirs(folder: Path) -> Run:
    with _platform(folder) as vast:
        loop = _Loop(vast)
        wall_s = _all_jobs(loop.job)
        bill = vast.bill()
        return Run(bill["paid_s"], 0.0, wall_s, bill["created"])


class _Loop:
    """The documented sequence: a machine for every job."""

    def __init__(self, vast: Emulator) -> None:
        self._settings = VastSettings(
            api_base=vast.url,
            api_key=vast.config.api_key,
            worker_image="example/reelay-worker:1.0",
            deployment="loop",
        )
        self._cloud = VastCloud(self._settings)
        self._signer = Signer(("x" * 32,))
        self._lock = threading.Lock()

    def job(self, _: int) -> None:
        rental = str(uuid.uuid4())
        machine_id = self._create(rental)
        worker = self._worker(machine_id, rental)
        job_input = JobInput(json.dumps({"operation": "img2vid", **PARAMS}), "img2vid", TIMEOUT_S)
        while not isinstance(accepted := _asked(lambda: worker.submit(job_input)), Accepted):
            time.sleep(POLL_S)
        while worker.poll(accepted.remote_id).phase is not Phase.COMPLETED:
            time.sleep(POLL_S)
        while _asked(lambda: self._cloud.destroy(machine_id)) is None:
            pass

    def _create(self, rental: str) -> int:
        with self._lock:  # two threads must not take the same offer
            offer = self._cloud.search()[0]
            self._cloud.await_create()
            variables = environment(self._settings, self._signer, rental, ("127.0.0.1",))
            label = labels.label("loop", rental, int(time.time()))
            return self._cloud.create(offer, Order(self._settings.worker_image or "", label, variables, PORT))

    def _worker(self, machine_id: int, rental: str) -> WorkerClient:
        while True:
            for machine in _asked(self._cloud.list) or []:
                ready = machine.id == machine_id and machine.status is Status.RUNNING
                if ready and machine.host is not None and machine.port is not None:
                    return rented_worker(self._signer, rental, machine.host, machine.port)
            time.sleep(LOOK_S)


def _asked(ask: Callable[[], Answer]) -> Answer | None:
    """Return the result of `ask`, or None when the call should be repeated."""
    try:
        return ask()
    except Unavailable:
        return None


def _all_jobs(follow: Callable[[int], object]) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(follow, range(JOBS)))
    return time.monotonic() - started

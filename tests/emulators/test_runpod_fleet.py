"""The autoscaler, with workers that only begin and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import ROOT
from tests.emulators.conftest import TIMEOUT_S, Caller, MakeEmulator, PlayedWorker, processes
from tests.emulators.runpod import Emulator
from tests.handler.support import alive
from tests.servers import PATIENCE_S, eventually

Call = Callable[[Emulator], Caller]
# a program that does nothing and does not end
SLEEPER = ("sleep", "600")


@pytest.fixture
def start(make_emulator: MakeEmulator) -> Callable[..., Emulator]:
    """An endpoint whose one worker sleeps."""

    def make(**fields: Any) -> Emulator:
        return make_emulator(**{"max_workers": 1, "queue_delay_s": 0, "command": SLEEPER, **fields})

    return make


def workers(emulator: Emulator) -> dict[str, int]:
    return emulator.fleet.counts()


def test_no_worker_begins_without_a_job_and_the_first_job_starts_one(
    start: Callable[..., Emulator], call: Call
) -> None:
    emulator = start(max_workers=3, queue_delay_s=60)
    time.sleep(0.2)
    assert emulator.fleet.all() == []
    call(emulator).run(), call(emulator).run()
    eventually(lambda: workers(emulator)["initializing"] == 1)
    time.sleep(0.2)
    assert workers(emulator)["initializing"] == 1


def test_jobs_that_wait_too_long_start_more_workers_up_to_the_limit(start: Callable[..., Emulator], call: Call) -> None:
    emulator = start(max_workers=3, queue_delay_s=0.5)
    call(emulator).run()
    eventually(lambda: workers(emulator)["initializing"] == 1)
    for _ in range(4):
        call(emulator).run()
    eventually(lambda: workers(emulator)["initializing"] == 3)
    time.sleep(0.2)
    assert len(emulator.fleet.all()) == 3


def test_the_cold_start_is_waited_for(start: Callable[..., Emulator]) -> None:
    emulator = start(min_workers=1, cold_start_s=1.5)
    eventually(lambda: workers(emulator)["initializing"] == 1)
    assert emulator.fleet.all()[0].process is None
    eventually(lambda: emulator.fleet.all()[0].process)


@pytest.mark.parametrize("none", [{"max_workers": 0}, {"throttled": 2}])
def test_without_a_worker_jobs_wait(start: Callable[..., Emulator], call: Call, none: dict[str, int]) -> None:
    emulator = start(**{"max_workers": 2, **none})
    caller = call(emulator)
    job_id = caller.run()
    time.sleep(0.3)
    assert caller.status(job_id)["status"] == "IN_QUEUE"
    assert caller.health()["workers"] == dict.fromkeys(workers(emulator), 0) | {"throttled": none.get("throttled", 0)}
    emulator.configure(max_workers=1, throttled=0)
    eventually(lambda: workers(emulator)["initializing"] == 1)


def test_max_workers_0_ends_those_that_are_there(start: Callable[..., Emulator]) -> None:
    emulator = start(min_workers=2, max_workers=2)
    eventually(lambda: sum(worker.process is not None for worker in emulator.fleet.all()) == 2)
    pids = [worker.process.pid for worker in emulator.fleet.all() if worker.process]
    emulator.configure(max_workers=0)
    eventually(lambda: not any(alive(pid) for pid in pids) and emulator.fleet.all() == [])


@pytest.mark.parametrize("crash", ["command", "fault"])
def test_crashing_workers_are_unhealthy_and_tried_again(start: Callable[..., Emulator], call: Call, crash: str) -> None:
    emulator = start(command=("false",) if crash == "command" else SLEEPER, crash_pause_s=0.3, max_workers=0)
    if crash == "fault":
        emulator.inject("crash", "start", times=2)
    caller = call(emulator)
    job_id = caller.run()
    emulator.configure(max_workers=1)
    eventually(lambda: caller.health()["workers"]["unhealthy"] == 1)
    for _ in range(10):
        assert caller.health()["workers"]["unhealthy"] == 1
        assert caller.health()["workers"]["initializing"] == 0
        time.sleep(0.05)
    assert caller.status(job_id)["status"] == "IN_QUEUE"
    emulator.configure(command=SLEEPER)
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process and not emulator.fleet._resting)


def test_a_worker_that_ignores_sigterm_is_killed_with_all_its_children(start: Callable[..., Emulator]) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600")
    emulator = start(command=stubborn, min_workers=1, stop_grace_s=1.5)
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process)
    [worker] = emulator.fleet.all()
    assert worker.guard
    group = worker.guard.pid
    eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
    emulator.configure(min_workers=0, max_workers=0)
    time.sleep(0.15)
    assert processes(group)
    eventually(lambda: processes(group) == [])


def test_a_worker_that_falls_silent_is_killed_and_its_job_goes_on(
    start: Callable[..., Emulator], call: Call, play: Callable[..., PlayedWorker]
) -> None:
    emulator = start(lost_after_s=0.4)
    caller = call(emulator)
    job_id = caller.run()
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process)
    [worker] = emulator.fleet.all()
    pid = worker.process.pid if worker.process else 0
    assert play(emulator, worker.id).take()
    eventually(lambda: not alive(pid) and caller.status(job_id)["status"] == "IN_QUEUE")
    eventually(lambda: workers(emulator)["initializing"] == 1)
    assert play(emulator, worker.id).take() is None


def test_nothing_survives_a_kill_of_the_stand_in(tmp_path: Path) -> None:
    program = (
        "import time; from tests.emulators.runpod import Config, Emulator\n"
        "with Emulator(Config(min_workers=1, cold_start_s=0, command=('sh', '-c', 'sleep 600 & sleep 600'))) as e:\n"
        "    while not (e.fleet.all() and e.fleet.all()[0].process): time.sleep(0.01)\n"
        "    print(e.fleet.all()[0].guard.pid, e.home, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        group = int(process.stdout.readline().split()[0])
        eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: processes(group) == [])


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_by_hand_it_says_what_a_gateway_needs_and_ends_when_asked(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.emulators.runpod", "--port", "0", "--latency-ms", "0", "--key", "k" * 20]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(5)]
        environ = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines[:4])
        url = f"{environ['RUNPOD_API_BASE']}/{environ['RUNPOD_ENDPOINT_ID']}/health"
        headers = {"Authorization": f"Bearer {environ['RUNPOD_API_KEY']}"}
        assert requests.get(url, headers=headers, timeout=TIMEOUT_S).status_code == 200
        process.send_signal(stop)
        assert process.wait(PATIENCE_S) == 0
    assert environ["PROVIDERS"] == "runpod"
    assert not Path(lines[4].split()[4].rstrip(";")).exists()

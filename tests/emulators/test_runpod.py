"""The stand-in for RunPod behaves as its documents say, in what other tests rely on. The test plays the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import requests

from tests.conftest import ROOT
from tests.emulators.conftest import INPUT, Caller, PlayedWorker, processes
from tests.emulators.runpod import Emulator
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.jobs import Queue
from tests.servers import eventually


def test_calls_over_the_limit_get_429(emulator: Emulator, caller: Caller) -> None:
    emulator.configure(limits={"cancel": 3})
    assert [caller.post("cancel/x").status_code for _ in range(5)] == [404, 404, 404, 429, 429]
    assert caller.get("status/x").status_code == 404


def test_a_disconnected_worker_gets_no_job(
    emulator: Emulator, caller: Caller, worker: PlayedWorker, session: requests.Session
) -> None:
    emulator.configure(long_poll_s=10)
    with pytest.raises(requests.Timeout):
        PlayedWorker(emulator, session, "gone").take(timeout_s=0.2)
    job_id = caller.run()
    taken = worker.take()
    assert taken and taken["id"] == job_id


def test_only_the_holder_may_end_a_job(
    emulator: Emulator, caller: Caller, worker: PlayedWorker, session: requests.Session
) -> None:
    job_id = caller.run()
    worker.take()
    other = PlayedWorker(emulator, session, "other")
    other.done(job_id, output="theirs")
    other.done(job_id, status="IN_PROGRESS", output=0.9)
    assert caller.status(job_id)["status"] == "IN_PROGRESS"
    assert "output" not in caller.status(job_id)


@pytest.mark.parametrize(("kind", "effect"), [("lost_request", 0), ("lost_reply", 1)])
def test_a_lost_call_ends_in_a_broken_connection(emulator: Emulator, caller: Caller, kind: str, effect: int) -> None:
    caller.health()  # the connection is one that was kept
    emulator.inject(kind, "run")
    with pytest.raises(requests.ConnectionError):
        caller.post("run", {"input": INPUT})
    assert emulator.queue.counts()["inQueue"] == effect
    caller.run()


def test_nothing_survives_a_kill_of_the_stand_in() -> None:
    program = (
        "import time; from tests.emulators.runpod import Config, Emulator\n"
        "with Emulator(Config(min_workers=1, cold_start_s=0, command=('sh', '-c', 'sleep 600 & sleep 600'))) as e:\n"
        "    while not (e.fleet.all() and e.fleet.all()[0].process): time.sleep(0.01)\n"
        "    print(e.fleet.all()[0].guard.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        group = int(process.stdout.readline())
        eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: processes(group) == [])


def test_times_out_and_forgets_as_documented() -> None:
    now = [1000.0]
    queue = Queue(lambda: Config(lost_after_s=1e9), lambda: now[0])
    slow, done, forgotten = (queue.submit({"input": {}, "policy": {"executionTimeout": 2000}}) for _ in range(3))
    queue.forget(forgotten)
    assert [queue.take("w", 0, lambda: True) for _ in range(3)] == [slow, done, None]
    queue.done("w", done.id, 1)
    for seconds, slow_status, kept in ((2, "IN_PROGRESS", True), (0.1, "TIMED_OUT", True), (1800, None, False)):
        now[0] += seconds
        queue.sweep()
        assert slow_status is None or slow.status == slow_status
        assert (queue.get(done.id) is done) is kept

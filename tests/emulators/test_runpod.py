"""The stand-in for RunPod behaves as its documents say, in what other tests rely on. The test plays the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT
from tests.emulators.conftest import INPUT, TIMEOUT_S, Caller, MakeEmulator, PlayedWorker, processes
from tests.emulators.runpod import Emulator
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.jobs import Queue
from tests.servers import PATIENCE_S, eventually

Call = Callable[[Emulator], Caller]
Play = Callable[..., PlayedWorker]


def test_a_job_goes_from_the_caller_to_the_worker_and_back(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    assert caller.status(job_id) == {"id": job_id, "status": "IN_QUEUE", "retries": 0}
    assert worker.take() == {"id": job_id, "input": INPUT}
    running = caller.status(job_id)
    assert running["status"] == "IN_PROGRESS"
    assert running["workerId"] == "played"
    assert "output" not in running
    worker.done(job_id, status="IN_PROGRESS", output=0.5)
    assert caller.status(job_id)["output"] == 0.5
    assert worker.done(job_id, output={"stats": {}}).status_code == 200
    ended = caller.status(job_id)
    assert (ended["status"], ended["output"]) == ("COMPLETED", {"stats": {}})
    assert set(ended) == {"id", "status", "delayTime", "executionTime", "workerId", "retries", "output"}
    assert 0 <= ended["executionTime"] < 5000


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "rpa_emulated", "Bearer key-of-the-workers-alone"]
)
def test_every_call_needs_the_key(emulator: Emulator, authorization: str) -> None:
    for method, path in (("POST", "run"), ("GET", "health"), ("GET", "status/x"), ("POST", "cancel/x")):
        headers = {"Authorization": authorization}
        answer = requests.request(
            method, f"{emulator.endpoint_url}/{path}", headers=headers, json={}, timeout=TIMEOUT_S
        )
        assert answer.status_code == 401
    assert emulator.queue.counts()["inQueue"] == 0


def test_calls_over_the_limit_get_429(make_emulator: MakeEmulator, call: Call) -> None:
    caller = call(make_emulator(limits={"cancel": (3, None)}))
    assert [caller.post("cancel/x").status_code for _ in range(5)] == [404, 404, 404, 429, 429]
    assert caller.get("status/x").status_code == 404


def test_a_disconnected_worker_gets_no_job(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(long_poll_s=10)
    caller, worker = call(emulator), play(emulator)
    with pytest.raises(requests.Timeout):
        requests.get(
            f"{emulator.endpoint_url}/job-take/gone?",
            headers={"Authorization": emulator.config.worker_key},
            timeout=0.2,
        )
    job_id = caller.run()
    taken = worker.take()
    assert taken and taken["id"] == job_id


def test_a_stop_reaches_the_worker_that_holds_the_job(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(long_poll_s=5)
    caller, worker, other = call(emulator), play(emulator), play(emulator, "other")
    job_id = caller.run()
    worker.take()
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(worker.get, "job-stop")
        eventually(lambda: emulator.calls["job-stop"])
        caller.post(f"cancel/{job_id}")
        assert answer.result(TIMEOUT_S).json() == {"jobsToStop": [job_id]}
    emulator.configure(long_poll_s=0.01)
    assert other.get("job-stop").status_code == 204
    assert worker.get("job-stop").status_code == 204
    worker.done(job_id, output=1)
    assert caller.status(job_id)["status"] == "CANCELLED"


def test_only_the_holder_may_end_a_job(emulator: Emulator, caller: Caller, worker: PlayedWorker, play: Play) -> None:
    job_id = caller.run()
    worker.take()
    other = play(emulator, "other")
    assert other.done(job_id, output="theirs").status_code == 200
    other.done(job_id, status="IN_PROGRESS", output=0.9)
    assert caller.status(job_id)["status"] == "IN_PROGRESS"
    assert "output" not in caller.status(job_id)


def test_a_result_that_is_too_large_completes_the_job_without_it(
    make_emulator: MakeEmulator, call: Call, play: Play
) -> None:
    emulator = make_emulator(max_result_bytes=100)
    caller, worker = call(emulator), play(emulator)
    job_id = caller.run()
    worker.take()
    assert worker.done(job_id, output="x" * 100).status_code == 400
    ended = caller.status(job_id)
    assert ended["status"] == "COMPLETED"
    assert "output" not in ended


def test_a_silent_worker_loses_its_job_once_and_then_the_job_fails(
    make_emulator: MakeEmulator, call: Call, play: Play
) -> None:
    emulator = make_emulator(lost_after_s=0.2)
    caller, worker, other = call(emulator), play(emulator), play(emulator, "other")
    job_id = caller.run()
    first = worker.take()
    eventually(lambda: caller.status(job_id)["status"] == "IN_QUEUE")
    worker.done(job_id, output="too late")
    assert other.take() == first
    assert caller.status(job_id)["retries"] == 1
    eventually(lambda: caller.status(job_id)["status"] == "FAILED")
    assert caller.status(job_id)["error"] == "job timed out after 1 retries"


def test_many_workers_take_each_job_once(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(max_queued=100)
    caller = call(emulator)
    ids = [caller.run() for _ in range(60)]
    taken: list[str] = []

    def work(worker: PlayedWorker) -> None:
        while job := worker.take():
            taken.append(job["id"])
            worker.done(job["id"], output=1)

    threads = [threading.Thread(target=work, args=(play(emulator, f"w{n}"),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert sorted(taken) == sorted(ids)
    assert caller.health()["jobs"]["completed"] == 60


@pytest.mark.parametrize(("kind", "effect"), [("lost_request", 0), ("lost_reply", 1)])
def test_a_lost_call_ends_in_a_broken_connection(emulator: Emulator, caller: Caller, kind: str, effect: int) -> None:
    caller.health()  # the connection is one that was kept
    emulator.inject(kind, "run")
    with pytest.raises(requests.ConnectionError):
        caller.post("run", {"input": INPUT})
    assert emulator.queue.counts()["inQueue"] == effect
    caller.run()


def test_late_progress_overwrites_the_end(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    emulator.inject("late_progress", "job-done", seconds=1)
    job_id = caller.run()
    worker.take()
    worker.done(job_id, status="IN_PROGRESS", output={"progress": 0.9})
    worker.done(job_id, output="result")
    assert caller.status(job_id)["status"] == "COMPLETED"
    eventually(lambda: caller.status(job_id)["status"] == "IN_PROGRESS")
    assert caller.status(job_id)["output"] == {"progress": 0.9}


def test_a_worker_that_ignores_sigterm_is_killed_with_all_its_children(make_emulator: MakeEmulator) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; sleep 600 & sleep 600; sleep 600")
    emulator = make_emulator(command=stubborn, min_workers=1, max_workers=1, stop_grace_s=1.5)
    eventually(lambda: emulator.fleet.all() and emulator.fleet.all()[0].process)
    [worker] = emulator.fleet.all()
    assert worker.guard
    group = worker.guard.pid
    eventually(lambda: [name for _, name in processes(group)].count("sleep") == 2)
    emulator.configure(min_workers=0, max_workers=0)
    eventually(lambda: processes(group) == [])


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

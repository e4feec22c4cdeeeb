"""Both faces of the stand-in, each seen through a plain client; the test plays the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from flask import Blueprint

from tests.emulators.conftest import INPUT, TIMEOUT_S, Caller, MakeEmulator, PlayedWorker
from tests.emulators.runpod import Config, Emulator
from tests.servers import PATIENCE_S, FileServer, Reply, eventually

Call = Callable[[Emulator], Caller]
Play = Callable[..., PlayedWorker]


# ---- the job API


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


def test_an_error_of_the_worker_fails_the_job(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    worker.take()
    worker.done(job_id, output={"k": 1}, error="broken")
    ended = caller.status(job_id)
    assert (ended["status"], ended["error"], ended["output"]) == ("FAILED", "broken", {"k": 1})


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "rpa_emulated", "Bearer key-of-the-workers-alone"]
)
def test_without_the_key_nothing_is_told(emulator: Emulator, authorization: str) -> None:
    for method, path in (("POST", "run"), ("GET", "health"), ("GET", "status/x"), ("POST", "cancel/x")):
        headers = {"Authorization": authorization}
        answer = requests.request(
            method, f"{emulator.endpoint_url}/{path}", headers=headers, json={}, timeout=TIMEOUT_S
        )
        assert answer.status_code == 401
    assert emulator.queue.counts()["inQueue"] == 0


def test_the_callers_key_is_not_the_workers(emulator: Emulator) -> None:
    headers = {"Authorization": f"Bearer {emulator.config.worker_key}"}
    assert requests.get(f"{emulator.endpoint_url}/job-take/w?", headers=headers, timeout=TIMEOUT_S).status_code == 401
    headers = {"Authorization": emulator.config.api_key}
    assert requests.get(f"{emulator.endpoint_url}/job-take/w?", headers=headers, timeout=TIMEOUT_S).status_code == 401


def test_another_endpoint_is_not_found(emulator: Emulator) -> None:
    headers = {"Authorization": f"Bearer {emulator.config.api_key}"}
    assert requests.get(f"{emulator.url}/v2/other/health", headers=headers, timeout=TIMEOUT_S).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"input": 1},
        {"input": INPUT, "policy": 1},
        {"input": INPUT, "policy": {"ttl": -1}},
        {"input": INPUT, "policy": {"executionTimeout": "1"}},
    ],
)
def test_a_submission_that_makes_no_sense_is_refused(caller: Caller, body: object) -> None:
    assert caller.post("run", body).status_code == 400
    assert caller.health()["jobs"]["inQueue"] == 0


def test_a_body_that_is_too_large_is_refused_and_the_connection_stays(make_emulator: MakeEmulator, call: Call) -> None:
    caller = call(make_emulator(max_run_bytes=1000))
    assert caller.post("run", {"input": {"a": "x" * 1000}}).status_code == 413
    caller.run()


def test_cancel_takes_a_job_out_of_the_queue(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    assert caller.post(f"cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    assert worker.take() is None
    assert caller.status(job_id)["status"] == "CANCELLED"
    assert caller.post("cancel/nobody").status_code == 404


def test_cancel_of_an_ended_job_changes_nothing(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    worker.take()
    worker.done(job_id, output=1)
    assert caller.post(f"cancel/{job_id}").json()["status"] == "COMPLETED"


def test_runsync_answers_with_the_end(caller: Caller, worker: PlayedWorker) -> None:
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(caller.post, "runsync", {"input": INPUT})
        eventually(lambda: worker.done(job["id"], output=1) if (job := worker.take()) else None)
        document = answer.result(TIMEOUT_S).json()
    assert (document["status"], document["output"]) == ("COMPLETED", 1)


def test_purge_and_retry(caller: Caller, worker: PlayedWorker) -> None:
    failed = caller.run()
    worker.take()
    worker.done(failed, error="broken")
    assert caller.post(f"retry/{failed}").json() == {"id": failed, "status": "IN_QUEUE"}
    assert "error" not in caller.status(failed)
    assert caller.post(f"retry/{failed}").status_code == 400
    caller.run()
    assert caller.post("purge-queue").json() == {"removed": 2, "status": "completed"}
    assert worker.take() is None


def test_health_counts_jobs_and_workers(caller: Caller, worker: PlayedWorker) -> None:
    done, _, _ = (caller.run() for _ in range(3))
    worker.take()
    worker.done(done, output=1)
    worker.take()
    assert caller.health() == {
        "jobs": {"completed": 1, "failed": 0, "inProgress": 1, "inQueue": 1, "retried": 0},
        "workers": {"idle": 0, "initializing": 0, "ready": 0, "running": 1, "throttled": 0, "unhealthy": 0},
    }


def test_the_jobs_webhook_is_tried_three_times(
    make_emulator: MakeEmulator, call: Call, play: Play, files: FileServer
) -> None:
    emulator = make_emulator(webhook_pause_s=0.01)
    files.routes["/hook"] = Reply(500)
    caller, worker = call(emulator), play(emulator)
    job_id = caller.run(webhook=files.url("/hook"))
    worker.take()
    worker.done(job_id, output=1)
    eventually(lambda: len(files.requests) == 3)
    time.sleep(0.1)
    assert len(files.requests) == 3
    assert b'"status": "COMPLETED"' in files.requests[0].body
    assert not any("signature" in name.lower() for name in files.requests[0].headers)


def test_every_call_of_the_job_api_takes_its_time(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    """And no call of a worker does: the fastest of some is faster than any of the job API."""
    emulator = make_emulator(latency_ms=300)
    caller, worker = call(emulator), play(emulator)

    def taken_s(do: Callable[[], object]) -> float:
        started = time.monotonic()
        do()
        return time.monotonic() - started

    assert taken_s(caller.run) >= 0.3
    assert min(taken_s(lambda: worker.get("ping")) for _ in range(10)) < 0.3


def test_calls_are_counted_by_kind(emulator: Emulator, caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    for path in (f"status/{job_id}", "status/nobody", "health"):
        caller.get(path)
    worker.take()
    assert emulator.calls == {"run": 1, "status": 2, "health": 1, "job-take": 1}


# ---- limits


def test_more_calls_than_fit_the_window_get_429(make_emulator: MakeEmulator, call: Call) -> None:
    caller = call(make_emulator(limits={"cancel": (3, None)}))
    assert [caller.post("cancel/x").status_code for _ in range(5)] == [404, 404, 404, 429, 429]
    assert caller.get("status/x").status_code == 404


def test_more_calls_at_once_than_allowed_get_429(make_emulator: MakeEmulator, call: Call) -> None:
    emulator = make_emulator(latency_ms=1000, limits={"status": (100, 2)})
    callers = [call(emulator) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(lambda caller: caller.get("status/x").status_code, callers))
    assert codes == [404, 404, 429, 429]


def test_a_queue_that_is_too_deep_gets_429(make_emulator: MakeEmulator, call: Call) -> None:
    caller = call(make_emulator(max_queued=2))
    for _ in range(3):
        caller.run()
    assert caller.post("run", {"input": INPUT}).status_code == 429


# ---- the worker API


def test_take_answers_as_soon_as_a_job_comes(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(long_poll_s=60)
    caller, worker = call(emulator), play(emulator)
    with ThreadPoolExecutor() as pool:
        taken = pool.submit(worker.take)
        eventually(lambda: emulator.calls["job-take"])
        time.sleep(0.1)
        job_id = caller.run()
        assert taken.result(TIMEOUT_S) == {"id": job_id, "input": INPUT}


def test_a_worker_that_has_hung_up_gets_no_job(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
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


def test_a_batch_holds_as_many_as_are_asked_for(caller: Caller, worker: PlayedWorker) -> None:
    ids = [caller.run() for _ in range(3)]
    assert [job["id"] for job in worker.get("job-take-batch", batch_size=2).json()] == ids[:2]
    assert [job["id"] for job in worker.get("job-take-batch", batch_size=2).json()] == ids[2:]
    assert worker.get("job-take-batch", batch_size=2).status_code == 204


def test_an_empty_input_is_lost_on_the_way(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run(input={})
    assert worker.take() == {"id": job_id}


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


def test_a_ping_that_names_the_job_keeps_it(make_emulator: MakeEmulator, call: Call, play: Play) -> None:
    emulator = make_emulator(lost_after_s=1.5)
    caller, worker = call(emulator), play(emulator)
    job_id, other = caller.run(), caller.run()
    worker.get("job-take-batch", batch_size=2)

    def other_is_lost() -> bool:
        worker.get("ping", job_id=f"x,{job_id}")
        return caller.status(other)["status"] == "IN_QUEUE"

    eventually(other_is_lost)
    assert caller.status(job_id)["status"] == "IN_PROGRESS"


def test_stream_chunks_are_read_once(caller: Caller, worker: PlayedWorker) -> None:
    job_id = caller.run()
    worker.take()
    worker.post("job-stream", job_id, {"output": 1})
    assert caller.get(f"stream/{job_id}").json() == {"status": "IN_PROGRESS", "stream": [{"output": 1}]}
    assert caller.get(f"stream/{job_id}").json()["stream"] == []


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


def test_a_further_face_can_be_mounted() -> None:
    management = Blueprint("management", __name__, url_prefix="/v2/serverless")
    management.add_url_rule("", "list", lambda: {"endpoints": []})
    management.add_url_rule("/<key>", "patch", lambda key: {"id": key}, methods=["PATCH"])
    with Emulator(Config(), [management]) as emulator:
        assert requests.get(f"{emulator.url}/v2/serverless", timeout=TIMEOUT_S).json() == {"endpoints": []}
        assert requests.patch(f"{emulator.url}/v2/serverless/x", timeout=TIMEOUT_S).json() == {"id": "x"}

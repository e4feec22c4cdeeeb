"""The worker API, which the SDK in a worker calls. Its `Authorization` is the bare key."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Blueprint, Response, jsonify, request

from tests.emulators.runpod.calls import Calls, Problem, face, hang_up
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.faults import HAND_OVER, Fault
from tests.emulators.runpod.fleet import Fleet
from tests.emulators.runpod.jobs import Queue
from tests.emulators.runpod.server import CONNECTED


def environment(base: str, worker_id: str, config: Config) -> dict[str, str]:
    """The variables that the platform sets for a worker; `base` is the URL of the endpoint."""
    return {
        "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
        "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
        "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=none",
        "RUNPOD_PING_INTERVAL": str(config.ping_interval_s * 1000),
        "RUNPOD_AI_API_KEY": config.worker_key,
        "RUNPOD_POD_ID": worker_id,
        "RUNPOD_ENDPOINT_ID": config.endpoint_id,
        # otherwise the SDK looks for a GPU and the internet first
        "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        "RUNPOD_SKIP_GPU_CHECK": "true",
    }


def worker_api(config: Callable[[], Config], queue: Queue, fleet: Fleet, calls: Calls) -> Blueprint:
    api = face("worker_api", config, lambda settings: settings.worker_key)

    @api.get("/job-take/<worker_id>")
    @calls.call("job-take")
    def take(fault: Fault | None, worker_id: str) -> Response:
        worker, connected = fleet.ready(worker_id), request.environ[CONNECTED]
        job = queue.take(worker_id, config().long_poll_s, lambda: not worker.leaving and connected())
        if job is None:
            return Response(status=204)
        fault = calls.faults.strike(HAND_OVER)
        if fault and fault.kind == "lost_reply":
            return hang_up()
        if fault:
            _later(fault.seconds, fleet.kill, worker_id)
        return jsonify(job.handed_over())

    @api.get("/job-stop/<worker_id>")
    @calls.call("job-stop")
    def stop(fault: Fault | None, worker_id: str) -> Response:
        worker, connected = fleet.known(worker_id), request.environ[CONNECTED]
        ids = queue.stops(worker_id, config().long_poll_s, lambda: not worker.leaving and connected())
        return jsonify(jobsToStop=ids) if ids else Response(status=204)

    @api.post("/job-done/<worker_id>/<job_id>")
    @calls.call(lambda: "progress" if _is_progress(request.get_data()) else "job-done")
    def done(fault: Fault | None, worker_id: str, job_id: str) -> Response:
        fleet.known(worker_id)
        # Whatever the Content-Type says, the body is JSON.
        body, kind = request.get_data(), fault.kind if fault else None
        if kind == "oversize" or len(body) > config().max_result_bytes:
            queue.done(worker_id, job_id)
            raise Problem(400, "the result is too large")
        result = _decoded(body)
        if _is_progress(body):
            queue.progress(worker_id, job_id, result.get("output"))
            return jsonify({})
        last = (job := queue.get(job_id)) and job.output
        job = queue.done(worker_id, job_id, result.get("output"), result.get("error"))
        if job and fault and kind == "late_progress":
            _later(fault.seconds, queue.overwrite, job, last)
        if result.get("stopPod"):
            fleet.retire(worker_id)
        return jsonify({})

    @api.get("/ping/<worker_id>")
    @calls.call("ping")
    def ping(fault: Fault | None, worker_id: str) -> Response:
        fleet.known(worker_id)
        queue.heard(worker_id, request.args.get("job_id", "").split(","))
        return Response(status=200)

    return api


def _is_progress(body: bytes) -> bool:
    """Progress is sent to the same URL as results."""
    try:
        return bool(_decoded(body).get("status") == "IN_PROGRESS")
    except Problem:
        return False


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        decoded = json.loads(body)
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise Problem(400, "the body is not a JSON object")
    return decoded


def _later(seconds: float, act: Callable[..., None], *given: Any) -> None:
    def run() -> None:
        with suppress(KeyError):  # the worker has already gone
            act(*given)

    timer = threading.Timer(seconds, run)
    timer.daemon = True
    timer.start()

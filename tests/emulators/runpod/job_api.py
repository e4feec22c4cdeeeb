"""The job API, which the gateway calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, jsonify, request

from tests.emulators.runpod.calls import Calls, Problem, face
from tests.emulators.runpod.config import Config
from tests.emulators.runpod.faults import Fault
from tests.emulators.runpod.fleet import Fleet
from tests.emulators.runpod.jobs import Job, Queue


def job_api(config: Callable[[], Config], queue: Queue, fleet: Fleet, calls: Calls) -> Blueprint:
    api = face("job_api", config, lambda settings: f"Bearer {settings.api_key}")

    @api.post("/run")
    @calls.call("run")
    def run(fault: Fault | None) -> Response:
        job = queue.submit(_submission(config(), queue))
        return _short(job)

    @api.get("/status/<job_id>")
    @calls.call("status")
    def status(fault: Fault | None, job_id: str) -> Response:
        job = _known(queue, job_id)
        if fault and fault.kind == "expired":
            queue.forget(job)
            raise Problem(404, "job not found")
        with queue.changed:
            return jsonify(job.document())

    @api.post("/cancel/<job_id>")
    @calls.call("cancel")
    def cancel(fault: Fault | None, job_id: str) -> Response:
        job = _known(queue, job_id)
        queue.cancel(job)
        return _short(job)

    @api.post("/purge-queue")
    @calls.call("purge-queue")
    def purge_queue(fault: Fault | None) -> Response:
        return jsonify(removed=queue.purge(), status="completed")

    @api.get("/health")
    @calls.call("health")
    def health(fault: Fault | None) -> Response:
        return jsonify(jobs=queue.counts(), workers=fleet.counts())

    return api


def _short(job: Job) -> Response:
    return jsonify(id=job.id, status=job.status)


def _known(queue: Queue, job_id: str) -> Job:
    job = queue.get(job_id)
    if job is None:
        raise Problem(404, "job not found")
    return job


def _submission(config: Config, queue: Queue) -> Mapping[str, Any]:
    if queue.counts()["inQueue"] > max(config.max_queued, config.max_queued_per_worker * config.max_workers):
        raise Problem(429, "the queue is full")
    try:
        raw = json.loads(request.get_data())
    except ValueError as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("input"), dict):
        raise Problem(400, "input must be an object")
    policy = raw.get("policy", {})
    if not isinstance(policy, dict) or not all(_positive(policy.get(name, 1)) for name in ("executionTimeout", "ttl")):
        raise Problem(400, "policy: executionTimeout and ttl are positive milliseconds")
    return raw


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0

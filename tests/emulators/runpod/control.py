"""The stand-in's own controls, at `/_control`; the platform has nothing like it.

GET    /_control                      calls by kind, faults, workers, the queue's counts
POST   /_control/faults               a Fault as JSON; the next call of its kind may meet it
DELETE /_control/faults               none any more
DELETE /_control/calls                counting begins anew
PATCH  /_control/config               fields of Config: {"max_workers": 0}
POST   /_control/workers/<id>/kill    SIGKILL for all its processes
POST   /_control/jobs/<id>/expire     the job is forgotten, as after 30 minutes
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from tests.emulators.runpod.calls import Problem
from tests.emulators.runpod.faults import Fault

if TYPE_CHECKING:
    from tests.emulators.runpod import Emulator

FAULT_FIELDS = ("kind", "on", "times", "probability", "seed", "status", "seconds", "body", "hits")
# not over HTTP: what would run a program of the caller's choice
FIXED = frozenset({"host", "port", "home", "command", "env", "limits"})


def control(emulator: Emulator) -> Blueprint:
    api = Blueprint("control", __name__, url_prefix="/_control")

    @api.errorhandler(TypeError)
    @api.errorhandler(ValueError)
    @api.errorhandler(KeyError)
    def wrong(error: Exception) -> Response:
        return Problem(400, str(error)).response()

    @api.get("")
    def state() -> Response:
        return jsonify(
            calls=emulator.calls,
            faults=[_fault(fault) for fault in emulator.faults.all()],
            jobs=emulator.queue.counts(),
            workers=emulator.fleet.counts(),
            worker_ids=[worker.id for worker in emulator.fleet.all()],
        )

    @api.post("/faults")
    def inject() -> tuple[Response, int]:
        return jsonify(_fault(emulator.inject(**request.get_json()))), 201

    @api.delete("/faults")
    def no_faults() -> tuple[str, int]:
        emulator.faults.clear()
        return "", 204

    @api.delete("/calls")
    def no_calls() -> tuple[str, int]:
        emulator.reset_calls()
        return "", 204

    @api.patch("/config")
    def configure() -> tuple[str, int]:
        changes = request.get_json()
        for name, value in changes.items():
            if name in FIXED or not _alike(value, getattr(emulator.config, name, None)):
                raise ValueError(f"not to be set while it runs, or not to this: {name}")
        emulator.configure(**changes)
        return "", 204

    @api.post("/workers/<worker_id>/kill")
    def kill(worker_id: str) -> tuple[str, int]:
        emulator.fleet.kill(worker_id)
        return "", 204

    @api.post("/jobs/<job_id>/expire")
    def expire(job_id: str) -> tuple[str, int]:
        emulator.expire(job_id)
        return "", 204

    return api


def _fault(fault: Fault) -> dict[str, Any]:
    document = dataclasses.asdict(fault)
    return {name: document[name] for name in FAULT_FIELDS}


def _alike(value: object, present: object) -> bool:
    if isinstance(present, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(present)

"""The stand-in's own controls, at `/_control`; the platform has no such thing.

GET    /_control                      calls by kind, faults, workers, the queue's counts
POST   /_control/faults               a Fault as JSON; injected into the next calls of its kind
DELETE /_control/faults               remove all faults
DELETE /_control/calls                start counting from zero
PATCH  /_control/config               fields of Config: {"max_workers": 0}
POST   /_control/workers/<id>/kill    kill all its processes
POST   /_control/jobs/<id>/expire     forget the job, as after 30 minutes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, jsonify

from tests.emulators.common import controls, told

if TYPE_CHECKING:
    from tests.emulators.runpod import Emulator

# not over HTTP: fields that would run a program of the caller's choice
FIXED = frozenset({"host", "port", "home", "command", "env", "limits"})


def control(emulator: Emulator) -> Blueprint:
    api = controls(emulator, FIXED)

    @api.get("")
    def state() -> Response:
        return jsonify(
            calls=emulator.calls,
            faults=[told(fault) for fault in emulator.faults.all()],
            jobs=emulator.queue.counts(),
            workers=emulator.fleet.counts(),
            worker_ids=[worker.id for worker in emulator.fleet.all()],
        )

    @api.post("/workers/<worker_id>/kill")
    def kill(worker_id: str) -> tuple[str, int]:
        emulator.fleet.kill(worker_id)
        return "", 204

    @api.post("/jobs/<job_id>/expire")
    def expire(job_id: str) -> tuple[str, int]:
        emulator.expire(job_id)
        return "", 204

    return api

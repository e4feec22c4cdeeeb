"""The stand-in's own controls, at `/_control`; the platform has nothing like it.

GET    /_control                         calls by kind, faults, the clock, the bill, every instance
GET    /_control/calls                   every call that came
DELETE /_control/calls                   counting begins anew
POST   /_control/faults                  a Fault as JSON
DELETE /_control/faults                  none any more
PATCH  /_control/config                  fields of Config: {"list_behind": 2, "credit": 0}
POST   /_control/clock                   {"advance": seconds} or {"speed": times}
POST   /_control/strangers               {"label": …}: somebody else rents with the same account
POST   /_control/instances/<id>/<what>   stopped, moved, black_hole, dies, vanishes or restarted, at once
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, jsonify, request

from tests.emulators.vast.faults import Fault

if TYPE_CHECKING:
    from tests.emulators.vast import Emulator

# not over HTTP: what would run a program of the caller's choice
FIXED = frozenset({"host", "port", "home", "command", "env", "spacing", "speed"})


def control(emulator: Emulator) -> Blueprint:
    api = Blueprint("control", __name__, url_prefix="/_control")

    @api.errorhandler(TypeError)
    @api.errorhandler(ValueError)
    @api.errorhandler(KeyError)
    def wrong(error: Exception) -> tuple[Response, int]:
        return jsonify(error=str(error)), 400

    @api.get("")
    def state() -> Response:
        return jsonify(
            calls=emulator.calls,
            faults=[_fault(fault) for fault in emulator.faults.all()],
            now=emulator.clock.now(),
            speed=emulator.clock.speed,
            bill=emulator.bill(),
            unfit=emulator.unfit,
        )

    @api.get("/calls")
    def calls() -> Response:
        return jsonify([dataclasses.asdict(call) for call in emulator.log])

    @api.delete("/calls")
    def no_calls() -> tuple[str, int]:
        emulator.reset_calls()
        return "", 204

    @api.post("/faults")
    def inject() -> tuple[Response, int]:
        return jsonify(_fault(emulator.inject(**request.get_json()))), 201

    @api.delete("/faults")
    def no_faults() -> tuple[str, int]:
        emulator.faults.clear()
        return "", 204

    @api.patch("/config")
    def configure() -> tuple[str, int]:
        changes = request.get_json()
        if wrong := sorted(FIXED & changes.keys()):
            raise ValueError(f"not to be set while it runs: {wrong}")
        emulator.configure(**changes)
        return "", 204

    @api.post("/clock")
    def clock() -> Response:
        asked = request.get_json()
        if "speed" in asked:
            emulator.clock.speed = float(asked["speed"])
        emulator.advance(float(asked.get("advance", 0)))
        return jsonify(now=emulator.clock.now())

    @api.post("/strangers")
    def stranger() -> tuple[Response, int]:
        return jsonify(id=emulator.stranger(**request.get_json())), 201

    @api.post("/instances/<int:instance_id>/<what>")
    def strike(instance_id: int, what: str) -> tuple[str, int]:
        emulator.strike(instance_id, what)
        return "", 204

    return api


def _fault(fault: Fault) -> dict[str, Any]:
    return {field.name: getattr(fault, field.name) for field in dataclasses.fields(fault) if field.init}

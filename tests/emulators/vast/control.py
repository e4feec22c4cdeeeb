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
from typing import TYPE_CHECKING

from flask import Blueprint, Response, jsonify, request

from tests.emulators.common import controls, told

if TYPE_CHECKING:
    from tests.emulators.vast import Emulator

# not over HTTP: what would run a program of the caller's choice
FIXED = frozenset({"host", "port", "home", "command", "env", "spacing", "speed"})


def control(emulator: Emulator) -> Blueprint:
    api = controls(emulator, FIXED)

    @api.get("")
    def state() -> Response:
        return jsonify(
            calls=emulator.calls,
            faults=[told(fault) for fault in emulator.faults.all()],
            now=emulator.clock.now(),
            speed=emulator.clock.speed,
            bill=emulator.bill(),
            unfit=emulator.unfit,
        )

    @api.get("/calls")
    def calls() -> Response:
        return jsonify([dataclasses.asdict(call) for call in emulator.log])

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

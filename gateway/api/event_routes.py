"""`POST /events/<attempt id>`: workers report here, with a bearer token that is valid for one attempt."""

from __future__ import annotations

from typing import Any

import structlog
from flask import request
from flask.views import MethodView

from gateway.api.blueprint import Blueprint
from gateway.api.openapi import examples, paths
from gateway.api.openapi.schemas import ResponseSchema
from gateway.dispatch.delivery import EVENTS_PURPOSE
from gateway.errors import AttemptSuperseded, Unauthorized
from gateway.wiring import services
from wire.envelope import Event, EventSchema


class TakenSchema(ResponseSchema):
    """The response to an event: an empty object."""


def blueprint() -> Blueprint:
    here = Blueprint("events", __name__, url_prefix="/events", description="For workers")

    @here.route("/<attempt_id>", parameters=[paths.parameter("attempt_id")], tags=[paths.WORKERS])
    class Events(MethodView):
        decorators = [_with_token]

        @here.arguments(EventSchema)
        @here.doc(security=[{"eventToken": []}], operationId="reportEvent")
        @here.response(200, TakenSchema, description="Taken", examples=examples.only({}))
        @here.refuses(AttemptSuperseded)
        def post(self, event: Event, attempt_id: str) -> dict[str, Any]:
            """Report the claim, progress, or the end of an attempt."""
            services().reports.take(attempt_id, event)
            return {}

    return here


def _with_token(view: Any) -> Any:
    """Check, before the body is read, that the token belongs to the attempt and has not expired."""

    def checked(*args: Any, attempt_id: str, **kwargs: Any) -> Any:
        here = services()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        match here.signer.read(EVENTS_PURPOSE, token):
            case [str(owner), int(expires_at)] if owner == attempt_id and here.clock.now_ms() < expires_at:
                structlog.contextvars.bind_contextvars(attempt_id=attempt_id)
                return view(*args, attempt_id=attempt_id, **kwargs)
        raise Unauthorized("Events need the bearer token of their attempt.")

    return checked

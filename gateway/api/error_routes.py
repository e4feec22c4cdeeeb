"""`GET /errors/<code>`: what the codes of errors mean, and what to do. Each problem's `type` leads here."""

from __future__ import annotations

from typing import Any

from marshmallow import fields

from gateway.api.blueprint import Blueprint
from gateway.api.openapi import examples, paths
from gateway.api.openapi.schemas import ResponseSchema
from gateway.errors import NotFound, RateLimited
from wire.errors import CODES, ReelayError


class ErrorCodeSchema(ResponseSchema):
    """What a code means."""

    code = fields.String(required=True, metadata={"description": "As in a problem or in the `error` of a job."})
    title = fields.String(required=True, metadata={"description": "What it means, as in a problem's `title`."})
    remedy = fields.String(required=True, metadata={"description": "What can be done about it."})
    status = fields.Integer(metadata={"description": "The HTTP status of such an error of a request."})


def blueprint() -> Blueprint:
    here = Blueprint("errors", __name__, url_prefix="/errors", description="Understand errors")

    @here.route("/<code>", parameters=[paths.parameter("code")])
    @here.doc(security=[], operationId="explainError")
    @here.response(200, ErrorCodeSchema, examples=examples.only(_explained(NotFound)))
    @here.refuses(NotFound, RateLimited)
    def explain(code: str) -> dict[str, Any]:
        """Explain the code of an error."""
        cls = CODES.get(code)
        if cls is None:
            raise NotFound("There is no such code.")
        return _explained(cls)

    return here


def _explained(error: type[ReelayError]) -> dict[str, Any]:
    status = getattr(error, "status", None)
    known = {"status": status} if status else {}
    return {"code": error.code, "title": error.text, "remedy": error.remedy, **known}

"""The callback of a job: the request that the gateway sends to its `webhook_url`."""

from __future__ import annotations

from typing import Any

from marshmallow import fields

from gateway.api.job_document import JobSchema
from gateway.api.openapi import examples
from gateway.api.openapi.paths import ULID
from gateway.api.openapi.schemas import ResponseSchema
from gateway.domain.jobs import FINISHED, JobStatus
from wire.envelope import Rfc3339

_HEADERS = {
    "webhook-id": (
        "The same at every try, so that receivers recognise repetitions.",
        f"wh_{ULID}",
        "wh_01HF7YAT00M3XH5S9QHW1K2YB4",
    ),
    "webhook-timestamp": ("When it was sent, in seconds since 1970.", "[0-9]+", "1700000000"),
    "webhook-signature": (
        "`v1,` and the Base64 HMAC-SHA256 of `<id>.<timestamp>.<body>`; several are space-separated.",
        "v1,[A-Za-z0-9+/=]{44}( v1,[A-Za-z0-9+/=]{44})*",
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
}


class JobEndedSchema(ResponseSchema):
    """The body of a webhook."""

    type = fields.String(required=True, metadata={"enum": sorted(f"job.{status}" for status in FINISHED)})
    timestamp = Rfc3339(required=True, metadata={"description": "When the job ended."})
    data = fields.Nested(JobSchema, required=True, metadata={"description": "The job, as `GET /jobs/{job_id}` has it."})


def _ended() -> dict[str, Any]:
    job = examples.job(examples.usual(), JobStatus.COMPLETED, webhook=True)
    return {"type": f"job.{job['status']}", "timestamp": job["finishedAt"], "data": job}


# A component, to which every operation that makes a job refers. Generators refuse a callback that is a reference, and
# an operationId in several callbacks, but accept a path item that is a reference.
JOB_ENDED: dict[str, Any] = {
    "post": {
        "summary": "A job has ended",
        "description": "Sent to the job's `webhook_url`, signed according to Standard Webhooks.",
        "operationId": "jobEnded",
        "tags": ["jobs"],
        "security": [],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "schema": {"type": "string", "pattern": f"^{pattern}$"},
                "description": what,
                "example": example,
            }
            for name, (what, pattern, example) in _HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/JobEnded"},
                    "examples": examples.only(_ended()),
                }
            },
        },
        "responses": {
            "2XX": {"description": "Accepted. After any other response the webhook is retried for three days."},
            "410": {"description": "Rejected for good: it is not sent again."},
            "429": {"description": "Try later; `Retry-After` is honoured, as with 503."},
        },
    }
}
CALLBACKS = {"jobEnded": {"{$request.body#/webhook_url}": {"$ref": "#/components/pathItems/jobEnded"}}}

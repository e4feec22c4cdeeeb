"""The section `webhooks` of the OpenAPI document: the requests that the gateway sends."""

from __future__ import annotations

from typing import Any

from gateway.domain.jobs import FINISHED

_HEADERS = {
    "webhook-id": "The same at every try, so that receivers recognise repetitions.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "`v1,` and the Base64 HMAC-SHA256 of `<id>.<timestamp>.<body>`; several are space-separated.",
}
_BODY = {
    "type": "object",
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {"type": "string", "enum": sorted(f"job.{status}" for status in FINISHED)},
        "timestamp": {"type": "string", "format": "date-time", "description": "When the job ended."},
        "data": {"$ref": "#/components/schemas/Job"},
    },
}
WEBHOOKS: dict[str, Any] = {
    "jobEnded": {
        "post": {
            "summary": "A job has ended",
            "description": "Sent to the job's `webhook_url`, signed according to Standard Webhooks.",
            "operationId": "jobEnded",
            "tags": ["jobs"],
            "security": [],
            "parameters": [
                {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": what}
                for name, what in _HEADERS.items()
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
            "responses": {
                "2XX": {"description": "Accepted. After any other response the webhook is retried for three days."},
                "410": {"description": "Rejected for good: it is not sent again."},
                "429": {"description": "Try later; `Retry-After` is honoured, as with 503."},
            },
        }
    }
}

"""What `/openapi.json` tells of the calls that we make: the section `webhooks` of OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from gateway.domain.jobs import FINISHED

_HEADERS = {
    "webhook-id": "The same at every try: tells a webhook that came twice.",
    "webhook-timestamp": "When it was sent, in seconds since 1970.",
    "webhook-signature": "`v1,` and the Base64 HMAC-SHA256 of `<id>.<timestamp>.<body>`; several are parted by spaces.",
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
            "description": "Sent to the job's `webhook_url`, signed as Standard Webhooks has it.",
            "operationId": "jobEnded",
            "tags": ["jobs"],
            "security": [],
            "parameters": [
                {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": what}
                for name, what in _HEADERS.items()
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
            "responses": {
                "2XX": {"description": "Taken. Anything else is a failure, and tried again for three days."},
                "410": {"description": "Not wanted: it is not sent again."},
                "429": {"description": "Later; `Retry-After` is honoured, as it is with 503."},
            },
        }
    }
}

"""The body, headers and signature of a webhook."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any

from common.clock import to_rfc3339
from gateway.domain.jobs import Job


def body(job: Job, document: Mapping[str, Any]) -> bytes:
    """The webhook's body; `document` is the job as clients see it."""
    assert job.finished_at is not None
    payload = {"type": f"job.{job.status}", "timestamp": to_rfc3339(job.finished_at), "data": document}
    return json.dumps(payload, separators=(",", ":")).encode()


def headers(webhook_id: str, secrets: Iterable[str], body: bytes, now: int) -> dict[str, str]:
    """The webhook's headers, with a signature by each of `secrets` (`whsec_…`): a receiver may know any of them."""
    timestamp = str(now // 1000)
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()

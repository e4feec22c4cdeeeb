"""A job's webhook as clients see it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from common.clock import to_rfc3339
from gateway.domain.jobs import Job
from gateway.domain.webhooks import Webhook, WebhookState


def document(job: Job, webhook: Webhook | None) -> dict[str, Any]:
    """The state of the job's webhook, without fields that are not set. `webhook`: None while the job has not ended."""
    log: dict[str, Any] = {
        "url": shown(job.webhook_url or ""),
        "status": str(webhook.state if webhook else WebhookState.PENDING),
        "tries": webhook.tries if webhook else 0,
    }
    if webhook is None:
        return log
    log["id"] = webhook.id
    times = {"lastTryAt": webhook.last_try_at, "nextTryAt": webhook.next_at}
    log |= {name: to_rfc3339(at) for name, at in times.items() if at is not None}
    last = {"lastStatusCode": webhook.last_status_code, "lastError": webhook.last_error}
    return log | {name: value for name, value in last.items() if value is not None}


def shown(url: str) -> str:
    """The URL without its parts that may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

"""Webhooks that notify clients of the end of a job: their states, and when they are sent. No side effects.

They follow Standard Webhooks (https://www.standardwebhooks.com). A job has at most one, for its end. Its row is written
by the transaction that ends the job, so that none is lost. A webhook may be sent twice, with the same id.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import urlsplit

from gateway.domain.jobs import Job

HOUR_S = 3600
# Pauses before each try, counted from the previous failure: three days in all.
PAUSES_S = (0, 5, 300, 1800, *(hours * HOUR_S for hours in (2, 5, 10, 14, 20, 24)))
MAX_TRIES = len(PAUSES_S)
MAX_RETRY_AFTER_S = 24 * HOUR_S
MAX_HOST = 255
GONE = 410
_BUSY = frozenset({429, 503})


class WebhookState(StrEnum):
    """The state of a webhook. Clients see these values."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Webhook:
    """The webhook of a finished job. Times are in ms UTC."""

    #: Id of the job whose end it reports.
    job_id: str
    #: The job's key; the number of its concurrent tries is limited.
    key_id: str
    #: Receiver as `host:port`; the number of concurrent tries per host is limited.
    host: str
    #: Whether it is still to be sent, or how it ended.
    state: WebhookState
    #: Number of tries since it was last requested.
    tries: int = 0
    #: When it was last tried.
    last_try_at: int | None = None
    #: HTTP status of the last try; None if there was no response.
    last_status_code: int | None = None
    #: Why the last try got no response, as text for the client.
    last_error: str | None = None
    #: When it is sent next; None when it is over.
    next_at: int | None = None
    #: The lease under which a sender works on it.
    lease_token: str | None = None
    #: When that lease expires.
    lease_expires_at: int | None = None

    @property
    def id(self) -> str:
        """The same at every try and every replay, so that receivers recognise repetitions."""
        return f"wh_{self.job_id.removeprefix('job_')}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a try."""

    #: HTTP status; None if there was no response.
    status_code: int | None = None
    #: Why there was no response.
    error: str | None = None
    #: Text of the header Retry-After.
    retry_after: str | None = None

    @property
    def ok(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def due(job: Job, now: int) -> Webhook:
    """The webhook of a job that has just ended."""
    parts = urlsplit(job.webhook_url or "")
    host = f"{parts.hostname}:{parts.port or parts.scheme}"[:MAX_HOST]
    return Webhook(job.id, job.key_id, host, WebhookState.PENDING, next_at=now)


def again(webhook: Webhook, now: int) -> Webhook:
    """Restart the whole schedule, due at once. A sender that is sending it loses its lease."""
    return replace(webhook, state=WebhookState.PENDING, tries=0, next_at=now, lease_token=None, lease_expires_at=None)


def tried(webhook: Webhook, outcome: Outcome, now: int) -> Webhook:
    """Record a try: the webhook is over, or due again later."""
    webhook = replace(
        webhook,
        tries=webhook.tries + 1,
        last_try_at=now,
        last_status_code=outcome.status_code,
        last_error=outcome.error,
        next_at=None,
        lease_token=None,
        lease_expires_at=None,
    )
    if outcome.ok:
        return replace(webhook, state=WebhookState.SUCCEEDED)
    if outcome.status_code == GONE or webhook.tries >= MAX_TRIES:
        return replace(webhook, state=WebhookState.FAILED)
    pause_s = PAUSES_S[webhook.tries] * random.uniform(0.9, 1.1)
    if outcome.status_code in _BUSY:
        pause_s = max(pause_s, _asked_s(outcome.retry_after or "", now))
    return replace(webhook, next_at=now + round(pause_s * 1000))


def _asked_s(retry_after: str, now: int) -> float:
    """Parse Retry-After, in seconds or as an HTTP date; 0 for anything else."""
    if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10:
        return min(int(retry_after), MAX_RETRY_AFTER_S)
    try:
        asked_s = parsedate_to_datetime(retry_after).timestamp() - now / 1000
    except (ValueError, OverflowError):
        return 0
    return min(max(0, asked_s), MAX_RETRY_AFTER_S)

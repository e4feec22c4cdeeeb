"""Webhooks: what a client is told when its job has ended, when that is tried, and how it is signed. No side effects.

They follow Standard Webhooks (https://www.standardwebhooks.com). A job has at most one: its end. The row is written by
the transaction that ends the job, so that none is lost; it may be sent twice, and then carries the same id.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from enum import StrEnum
from urllib.parse import urlsplit

from gateway.domain.jobs import Job

HOUR_S = 3600
# Before each try, counted from the failure of the one before: three days in all.
PAUSES_S = (0, 5, 300, 1800, *(hours * HOUR_S for hours in (2, 5, 10, 14, 20, 24)))
MAX_TRIES = len(PAUSES_S)
MAX_RETRY_AFTER_S = 24 * HOUR_S
MAX_HOST = 255
GONE = 410
_BUSY = frozenset({429, 503})


class WebhookState(StrEnum):
    """Of a webhook. Clients see these words."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Webhook:
    """What a finished job owes its client. `tries` counts those since it was last asked for."""

    job_id: str
    host: str
    state: WebhookState
    tries: int = 0
    last_try_at: int | None = None
    last_status_code: int | None = None
    last_error: str | None = None
    next_at: int | None = None
    lease_token: str | None = None
    lease_expires_at: int | None = None

    @property
    def id(self) -> str:
        """The same at every try and every replay: receivers tell repetitions by it."""
        return f"wh_{self.job_id.removeprefix('job_')}"


@dataclass(frozen=True)
class Outcome:
    """What a try came to: a status, or an error where none came. `retry_after` is the header's text."""

    status_code: int | None = None
    error: str | None = None
    retry_after: str | None = None

    @property
    def ok(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


def due(job: Job, now: int) -> Webhook:
    """The webhook of a job that has ended just now."""
    parts = urlsplit(job.webhook_url or "")
    return Webhook(
        job.id, f"{parts.hostname}:{parts.port or parts.scheme}"[:MAX_HOST], WebhookState.PENDING, next_at=now
    )


def again(webhook: Webhook, now: int) -> Webhook:
    """Asked for once more: due at once, the whole schedule before it. Whoever is sending it has lost his lease."""
    return replace(webhook, state=WebhookState.PENDING, tries=0, next_at=now, lease_token=None, lease_expires_at=None)


def tried(webhook: Webhook, outcome: Outcome, now: int) -> Webhook:
    """After a try: over, or due again later."""
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
    """Seconds, or a date as HTTP writes it; 0 for anything else."""
    if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 10:
        return min(int(retry_after), MAX_RETRY_AFTER_S)
    try:
        asked_s = parsedate_to_datetime(retry_after).timestamp() - now / 1000
    except (ValueError, OverflowError):
        return 0
    return min(max(0, asked_s), MAX_RETRY_AFTER_S)

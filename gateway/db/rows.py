"""Rows of the database as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from common.clock import DAY_MS
from gateway.db.records import ApiKey, Usage
from gateway.db.statements import ATTEMPT, USAGE
from gateway.db.tables import api_keys
from gateway.domain.attempts import Attempt, AttemptState
from gateway.domain.jobs import Job, JobStatus
from gateway.domain.webhooks import Webhook, WebhookState


def read_job(connection: sa.Connection, query: sa.Select[Any], **which: str) -> Job | None:
    row = connection.execute(query, which).mappings().first()
    return to_job(row) if row else None


def read_attempt(connection: sa.Connection, attempt_id: str) -> Attempt | None:
    row = connection.execute(ATTEMPT, {"row_id": attempt_id}).mappings().first()
    return to_attempt(row) if row else None


def read_api_keys(connection: sa.Connection) -> list[ApiKey]:
    return [ApiKey(**row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.id)).mappings()]


def read_usage(connection: sa.Connection, key_id: str, now: int) -> Usage:
    unfinished, params_bytes, day, cost_nano, ended = connection.execute(USAGE, {"row_id": key_id}).one()
    if not ended:
        return Usage(unfinished, params_bytes, 0, 0)
    return Usage(unfinished, params_bytes, cost_nano if day == now // DAY_MS else 0, cost_nano // ended)


def to_job(row: Mapping[Any, Any]) -> Job:
    return Job(**{**row, "status": JobStatus(row["status"])})


def to_attempt(row: Mapping[Any, Any]) -> Attempt:
    return Attempt(**{**row, "state": AttemptState(row["state"])})


def to_webhook(row: Mapping[Any, Any]) -> Webhook:
    return Webhook(**{**row, "state": WebhookState(row["state"])})

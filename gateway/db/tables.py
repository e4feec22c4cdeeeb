"""The tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Table

from gateway.domain import webhooks as hooks
from gateway.domain.jobs import MAX_FILENAME, MAX_REFERENCE
from gateway.domain.outputs import Output

metadata = sa.MetaData()
ID_TYPE = sa.String(40)


class ForeignText(sa.types.TypeDecorator[str]):
    """Text from elsewhere, without NUL, which PostgreSQL cannot store."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return value.replace("\0", "") if value else value


class OutputsType(sa.types.TypeDecorator[Mapping[str, Output]]):
    """The outputs of a job by name, as JSON."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Output] | None, dialect: sa.Dialect) -> Any:
        return None if value is None else {name: asdict(output) for name, output in value.items()}

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> Mapping[str, Output]:
        return {name: Output(**output) for name, output in (value or {}).items()}


# Conditions of partial indexes. A query must repeat them word for word, without parameters.
UNTRIED = sa.text("attempt_id IS NULL")
WAITING = sa.text("waits > 0 AND next_at IS NOT NULL")
UNFINISHED = sa.text("finished_at IS NULL")

jobs = Table(
    "jobs",
    metadata,
    Column("id", ID_TYPE, primary_key=True),
    Column("key_id", ID_TYPE, nullable=False),
    Column("operation", sa.String(64), nullable=False),
    Column("status", sa.String(16), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("queued_at", sa.BigInteger, nullable=False),
    Column("timeout_s", sa.Integer, nullable=False),
    Column("queue_limit_s", sa.Integer, nullable=False),
    Column("request_id", sa.String(64)),
    Column("webhook_url", sa.Text),
    Column("params_bytes", sa.Integer, nullable=False),
    Column("reference", sa.String(MAX_REFERENCE)),
    Column("filename", sa.String(MAX_FILENAME)),
    Column("progress", sa.Float, nullable=False),
    Column("started_at", sa.BigInteger),
    Column("finished_at", sa.BigInteger),
    Column("tries", sa.Integer, nullable=False),
    Column("encoder_refusals", sa.Integer, nullable=False),
    Column("waits", sa.Integer, nullable=False),
    Column("waiting_for", ForeignText),
    Column("attempt_id", ID_TYPE),
    Column("outputs", OutputsType, nullable=False),
    Column("stats", sa.JSON(none_as_null=True)),
    Column("result", sa.JSON(none_as_null=True)),
    Column("error_code", sa.String(64)),
    Column("error_message", ForeignText),
    Column("cost_nano", sa.BigInteger),
    Column("next_at", sa.BigInteger),
    Column("lease_token", sa.String(40)),
    Column("lease_expires_at", sa.BigInteger),
    sa.Index("jobs_by_key", "key_id", "id"),
    # One for each filter of a key's jobs: a filter without a hit would read all of them.
    sa.Index("jobs_by_status", "key_id", "status", "id"),
    sa.Index("jobs_by_operation", "key_id", "operation", "id"),
    sa.Index("jobs_by_reference", "key_id", "reference", "id"),
    sa.Index("jobs_due", "next_at"),
    # With the bytes, so that a key's jobs are counted and their params summed without reading a row.
    sa.Index(
        "jobs_unfinished",
        "key_id",
        "finished_at",
        "params_bytes",
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    ),
    # These two stay small: most jobs have ended, and most of the others are at a provider.
    sa.Index("jobs_untried", "next_at", "key_id", sqlite_where=UNTRIED, postgresql_where=UNTRIED),
    sa.Index("jobs_waiting", "status", "id", sqlite_where=WAITING, postgresql_where=WAITING),
)

# A table of its own: params may be a megabyte of JSON text, and the rows of `jobs` are written at every heartbeat.
job_params = Table(
    "job_params",
    metadata,
    Column("job_id", ID_TYPE, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("params", sa.Text, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", ID_TYPE, primary_key=True),
    Column("job_id", ID_TYPE, sa.ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("provider", sa.String(32), nullable=False),
    Column("state", sa.String(16), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("deadline", sa.BigInteger, nullable=False),
    Column("sent_at", sa.BigInteger),
    Column("remote_id", sa.String(255)),
    Column("claim_id", sa.String(64)),
    Column("claimed_at", sa.BigInteger),
    Column("heard_at", sa.BigInteger),
    Column("ended_at", sa.BigInteger),
    Column("error_code", sa.String(64)),
    Column("error_message", ForeignText),
    Column("gpu_failure", ForeignText),
    Column("running_at", sa.BigInteger),
    Column("cost_nano", sa.BigInteger),
)

# Uploads that are stored or being stored. A row is committed before its file is written, and deleted after it.
uploads = Table(
    "uploads",
    metadata,
    Column("id", ID_TYPE, primary_key=True),
    Column("key_id", ID_TYPE, nullable=False),
    Column("size_bytes", sa.BigInteger, nullable=False),
    Column("check_at", sa.BigInteger, nullable=False),
    sa.Index("uploads_to_check", "check_at"),
)

# The sums of the rows of `uploads`: a key may have millions.
upload_totals = Table(
    "upload_totals",
    metadata,
    Column("key_id", ID_TYPE, primary_key=True),
    Column("size_bytes", sa.BigInteger, nullable=False),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", ID_TYPE, primary_key=True),
    Column("idempotency_key", sa.String(255), primary_key=True),
    Column("fingerprint", sa.String(64), nullable=False),
    Column("job_id", ID_TYPE, nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", ID_TYPE, primary_key=True),
    Column("name", sa.String(200), nullable=False),
    Column("source", sa.String(16), nullable=False),
    Column("prefix", sa.String(16), nullable=False),
    Column("secret_sha256", sa.String(64), nullable=False, unique=True),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("revoked_at", sa.BigInteger),
    Column("webhook_rotations", sa.Integer, nullable=False, server_default="0"),
    Column("webhook_rotated_at", sa.BigInteger),
    Column("scopes", sa.String(64), nullable=False, server_default="jobs,metrics"),
    Column("previous_sha256", sa.String(64)),
    Column("previous_until", sa.BigInteger),
    sa.Index("api_keys_previous", "previous_sha256"),
)

# What the attempts of a key have cost, by the day on which they ended (UTC, in days since 1970).
spending = Table(
    "spending",
    metadata,
    Column("key_id", ID_TYPE, primary_key=True),
    Column("day", sa.Integer, primary_key=True, autoincrement=False),
    Column("cost_nano", sa.BigInteger, nullable=False),
    Column("attempts", sa.Integer, nullable=False),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("job_id", ID_TYPE, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", ID_TYPE, nullable=False),
    Column("host", sa.String(hooks.MAX_HOST), nullable=False),
    Column("state", sa.String(16), nullable=False),
    Column("tries", sa.Integer, nullable=False),
    Column("last_try_at", sa.BigInteger),
    Column("last_status_code", sa.Integer),
    Column("last_error", sa.Text),
    Column("next_at", sa.BigInteger),
    Column("lease_token", sa.String(40)),
    Column("lease_expires_at", sa.BigInteger),
    sa.Index("webhooks_due", "next_at", "key_id", "host"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", sa.String(64), primary_key=True),
    Column("holder", sa.String(40), nullable=False),
    Column("expires_at", sa.BigInteger, nullable=False),
)

rentals = Table(
    "rentals",
    metadata,
    Column("id", sa.String(40), primary_key=True),
    Column("provider", sa.String(32), nullable=False),
    Column("stage", sa.String(16), nullable=False, index=True),
    Column("label", sa.String(256), nullable=False),
    Column("created_at", sa.BigInteger, nullable=False),
    Column("stage_at", sa.BigInteger, nullable=False),
    Column("deadline", sa.BigInteger, nullable=False),
    Column("offer_id", sa.BigInteger),
    Column("machine_id", sa.BigInteger),
    Column("gpu", sa.String(64)),
    Column("nano_per_s", sa.BigInteger, nullable=False),
    Column("down_nano_per_gb", sa.BigInteger, nullable=False),
    Column("up_nano_per_gb", sa.BigInteger, nullable=False),
    Column("traffic_nano", sa.BigInteger, nullable=False),
    Column("traffic_at", sa.BigInteger),
    Column("first_attempt_id", ID_TYPE),
    Column("remote_id", sa.BigInteger),
    Column("sent_at", sa.BigInteger),
    Column("ready_at", sa.BigInteger),
    Column("ended_at", sa.BigInteger),
    Column("host", sa.String(255)),
    Column("port", sa.Integer),
    Column("seen_at", sa.BigInteger),
    Column("heard_at", sa.BigInteger),
    Column("silent_since", sa.BigInteger),
    Column("missing_needed", sa.Integer, nullable=False),
    Column("missing_seen", sa.Integer, nullable=False),
    Column("missing_at", sa.BigInteger),
    Column("destroy_tries", sa.Integer, nullable=False),
    Column("code", sa.String(64)),
    Column("reason", ForeignText),
)

avoided_machines = Table(
    "avoided_machines",
    metadata,
    Column("provider", sa.String(32), primary_key=True),
    Column("machine_id", sa.BigInteger, primary_key=True),
    Column("until", sa.BigInteger, nullable=False),
    Column("reason", ForeignText),
)

fleets = Table(
    "fleets",
    metadata,
    Column("provider", sa.String(32), primary_key=True),
    Column("looked_at", sa.BigInteger),
    Column("trouble_code", sa.String(64)),
    Column("trouble", ForeignText),
    Column("trouble_at", sa.BigInteger),
)

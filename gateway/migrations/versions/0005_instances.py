"""Rented machines, those that are avoided for a while, and what the pool that rents them found last."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "instances",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("label", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("stage_at", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("offer_id", sa.BigInteger),
        sa.Column("machine_id", sa.BigInteger),
        sa.Column("gpu", sa.String(64)),
        sa.Column("nano_per_s", sa.BigInteger, nullable=False),
        sa.Column("remote_id", sa.BigInteger),
        sa.Column("sent_at", sa.BigInteger),
        sa.Column("ready_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("host", sa.String(255)),
        sa.Column("port", sa.Integer),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("heard_at", sa.BigInteger),
        sa.Column("silent_since", sa.BigInteger),
        sa.Column("missing_needed", sa.Integer, nullable=False),
        sa.Column("missing_seen", sa.Integer, nullable=False),
        sa.Column("missing_at", sa.BigInteger),
        sa.Column("destroy_tries", sa.Integer, nullable=False),
        sa.Column("code", sa.String(64)),
        sa.Column("reason", sa.Text),
    )
    op.create_index("ix_instances_stage", "instances", ["stage"])
    op.create_table(
        "avoided_machines",
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("machine_id", sa.BigInteger, primary_key=True),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text),
    )
    op.create_table(
        "pools",
        sa.Column("provider", sa.String(32), primary_key=True),
        sa.Column("looked_at", sa.BigInteger),
        sa.Column("trouble_code", sa.String(64)),
        sa.Column("trouble", sa.Text),
        sa.Column("trouble_at", sa.BigInteger),
    )

"""Webhooks: their URL in the job, what became of them, and how often a key's secret was changed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("webhook_url", sa.Text))
    # With a default of the database's own: the release before inserts keys without it.
    op.add_column("api_keys", sa.Column("webhook_rotations", sa.Integer, nullable=False, server_default="0"))
    op.add_column("api_keys", sa.Column("webhook_rotated_at", sa.BigInteger))
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("last_try_at", sa.BigInteger),
        sa.Column("last_status_code", sa.Integer),
        sa.Column("last_error", sa.Text),
        sa.Column("next_at", sa.BigInteger),
        sa.Column("lease_token", sa.String(40)),
        sa.Column("lease_expires_at", sa.BigInteger),
    )
    op.create_index("webhooks_due", "webhooks", ["next_at"])

"""What attempts cost, and when a provider first told that one runs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cost_nano", sa.BigInteger))
    op.add_column("attempts", sa.Column("cost_nano", sa.BigInteger))
    op.add_column("attempts", sa.Column("running_at", sa.BigInteger))

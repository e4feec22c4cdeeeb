"""Indexes by which a long backlog costs no more than a short one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for name, column, where in (
        ("jobs_untried", "next_at", sa.text("attempt_id IS NULL")),
        ("jobs_waiting", "id", sa.text("waits > 0 AND next_at IS NOT NULL")),
    ):
        op.create_index(name, "jobs", [column], sqlite_where=where, postgresql_where=where)

"""Keys: what they may do, the secret before the newest, what they have spent. Their unfinished jobs in an index."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # The keys that there are go on doing what they could; the release before inserts keys without it.
    op.add_column("api_keys", sa.Column("scopes", sa.String(64), nullable=False, server_default="jobs,metrics"))
    op.add_column("api_keys", sa.Column("previous_sha256", sa.String(64)))
    op.add_column("api_keys", sa.Column("previous_until", sa.BigInteger))
    op.create_index("api_keys_previous", "api_keys", ["previous_sha256"])
    op.create_table(
        "spending",
        sa.Column("key_id", sa.String(40), primary_key=True),
        sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    unfinished = sa.text("finished_at IS NULL")
    columns = ["key_id", "finished_at"]  # with the second one SQLite counts without a look at the rows
    op.create_index("jobs_unfinished", "jobs", columns, sqlite_where=unfinished, postgresql_where=unfinished)

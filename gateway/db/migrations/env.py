"""Alembic's entry point: runs on the connection that `migrate` passes."""

from alembic import context

from gateway.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()

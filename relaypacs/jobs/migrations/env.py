"""Alembic's environment: runs the revisions on the connection and in the transaction that `upgrade.migrate` opened."""

from __future__ import annotations

from alembic import context

from relaypacs.jobs.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction holds it all: every revision, or none
)
context.run_migrations()

"""Leases have a number of their own; nodes remember which database they saw, and that they are being drained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, and the index by which staged files are compared with the rows."""
    op.add_column("delivery", sa.Column("lease", BigInt, nullable=False, server_default=sa.text("0")))
    op.add_column("node", sa.Column("timeline", sa.Text(), nullable=False, server_default=""))
    op.add_column("node", sa.Column("draining_at", sa.Double()))
    staged = sa.text("staged_key IS NOT NULL")
    op.create_index("ix_instance_staged_key", "instance", ["staged_key"], sqlite_where=staged, postgresql_where=staged)

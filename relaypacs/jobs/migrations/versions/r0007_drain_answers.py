"""A node that is being drained says so, and says when nothing more can come of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("node", sa.Column("drain_answers", BigInt, nullable=False, server_default=sa.text("0")))
    op.add_column("node", sa.Column("drained_at", sa.Double()))

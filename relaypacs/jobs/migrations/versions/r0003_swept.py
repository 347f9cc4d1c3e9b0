"""Tables that change with every delivery are vacuumed by thousands of changes, not by shares of their size."""

from __future__ import annotations

from alembic import op

from relaypacs.jobs.dialect import keep_swept

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Set it where the database has such a setting."""
    for table in ("instance", "delivery"):
        keep_swept(op.get_bind(), table)

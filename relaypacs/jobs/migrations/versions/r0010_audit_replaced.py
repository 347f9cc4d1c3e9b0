"""A row of the audit trail can't be replaced either, which SQLite does not count as deleting it."""

from __future__ import annotations

from alembic import op

from relaypacs.jobs.audit_dialect import replace_nothing

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the trigger, on SQLite."""
    replace_nothing(op.get_bind())

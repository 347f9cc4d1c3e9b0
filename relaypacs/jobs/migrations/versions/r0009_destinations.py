"""Deliveries in place of another destination's, since when one is down, and what was verified to be there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Add the column and both tables."""
    op.add_column("delivery", sa.Column("fallback_of", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "outage",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("fallback", sa.Text(), nullable=False, server_default=""),
        sa.Column("given", BigInt, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("destination", "node", name=op.f("pk_outage")),
    )
    op.create_table(
        "verification",
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double()),
        _number("rounds"),
        _number("tries"),
        _number("expected"),
        _number("found"),
        sa.Column("checked_at", sa.Double()),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("destination", "study_instance_uid", name=op.f("pk_verification")),
    )
    due = sa.text("due_at IS NOT NULL")
    op.create_index("ix_verification_due", "verification", ["node", "due_at"], sqlite_where=due, postgresql_where=due)
    op.create_index("ix_verification_study", "verification", ["study_instance_uid"])

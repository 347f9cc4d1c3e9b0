"""What the ledger still counts of rows that were deleted because they were over for long enough."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, BigInt, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Create the table of what is forgotten, and the index of what may be."""
    op.create_table(
        "forgotten",
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        _count("instances"),
        _count("delivered"),
        _count("discarded"),
        sa.PrimaryKeyConstraint("association_id", "study_instance_uid", name="pk_forgotten"),
        sa.ForeignKeyConstraint(["association_id"], ["association.association_id"], name="fk_forgotten_association_id"),
    )
    op.create_index("ix_forgotten_study", "forgotten", ["study_instance_uid"])
    bare = sa.text("generation IS NULL AND staged_key IS NULL AND purging_key IS NULL")
    op.create_index("ix_instance_bare", "instance", ["received_at", "id"], sqlite_where=bare, postgresql_where=bare)

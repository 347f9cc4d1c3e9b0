"""The association log: who asked for an association, what came of it, and what was proposed in it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, BigInt, nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    """Create the log, and the lists of presentation contexts it refers to."""
    op.create_table(
        "association_log",
        sa.Column("association_id", sa.Text(), nullable=False),
        _text("node"),
        _text("calling_ae"),
        _text("called_ae"),
        _text("peer"),
        sa.Column("tls", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        _text("outcome"),
        _text("word"),
        _text("reason"),
        _count("tries"),
        _count("objects"),
        _count("bytes"),
        _text("proposal"),
        sa.PrimaryKeyConstraint("association_id", name="pk_association_log"),
    )
    op.create_table(
        "proposal",
        sa.Column("digest", sa.Text(), nullable=False),
        _text("contexts"),
        sa.PrimaryKeyConstraint("digest", name="pk_proposal"),
    )
    refused = sa.text("word != ''")
    op.create_index("ix_association_log_ended", "association_log", ["ended_at", "association_id"])
    op.create_index("ix_association_log_caller", "association_log", ["calling_ae", "ended_at"])
    op.create_index(
        "ix_association_log_refused", "association_log", ["ended_at"], sqlite_where=refused, postgresql_where=refused
    )
    op.create_index("ix_association_log_proposal", "association_log", ["proposal"])

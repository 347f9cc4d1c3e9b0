"""One version of a UID that no conflict is known of; associations by age; ids of attempts are never given twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.dialect import BigInt

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SEVERAL = "SELECT sop_instance_uid FROM instance GROUP BY sop_instance_uid HAVING count(*) > 1"


def upgrade() -> None:
    """Flag what two nodes had received at the same moment, and see that it can't happen again."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    false, true = ("0", "1") if sqlite else ("false", "true")
    op.execute(
        f'UPDATE instance SET "conflict" = {true} WHERE "conflict" = {false} AND sop_instance_uid IN ({_SEVERAL})'
    )
    alone = sa.text(f'"conflict" = {false}')
    op.create_index(
        "uq_instance_alone",
        "instance",
        ["sop_instance_uid"],
        unique=True,
        sqlite_where=alone,
        postgresql_where=alone,
    )
    op.create_index("ix_association_started", "association", ["started_at", "association_id"])
    if sqlite:
        _make_attempts_anew()


def _make_attempts_anew() -> None:
    """SQLite can't make a column of a table that is there one whose values are never given twice."""
    op.drop_index("ix_attempt_delivery", "attempt")
    op.rename_table("attempt", "attempt_before")
    op.create_table(
        "attempt",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("delivery_id", BigInt, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False, server_default=""),
        sa.Column("status", sa.Integer()),
        sa.Column("reason", sa.Text(), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_attempt_delivery_id")),
        sqlite_autoincrement=True,
    )
    columns = "id, delivery_id, number, started_at, finished_at, outcome, scope, status, reason"
    op.execute(f"INSERT INTO attempt ({columns}) SELECT {columns} FROM attempt_before")
    # Those that are deleted had ids too, and the audit trail knows how far it was.
    there = "SELECT coalesce(max(id), 0) FROM attempt"
    told = "SELECT coalesce(max(position), 0) FROM audit_mark WHERE mark = 'attempts'"
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'attempt'")
    op.execute(f"INSERT INTO sqlite_sequence (name, seq) VALUES ('attempt', max(({there}), ({told})))")
    op.drop_table("attempt_before")
    op.create_index("ix_attempt_delivery", "attempt", ["delivery_id"])

"""The audit trail: who, where, what came of it, a chain of hashes; and what it does not tell of yet."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.audit_dialect import keep_for_its_time
from relaypacs.jobs.dialect import BigInt

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, BigInt, nullable=False, server_default=sa.text("0"))


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    """Make the trail of what was a list of what people did; what was received and refused before is not told of."""
    connection = op.get_bind()
    before = connection.execute(sa.text("SELECT at, kind, body FROM audit ORDER BY id")).all()
    # Anew: SQLite can't make a column of a table that is there one whose values are never given twice.
    op.drop_table("audit")
    op.create_table(
        "audit_mark",
        sa.Column("mark", sa.Text(), nullable=False),
        _count("position"),
        sa.Column("at", sa.Double()),
        _text("chain"),
        sa.PrimaryKeyConstraint("mark", name=op.f("pk_audit_mark")),
        sa.CheckConstraint("mark <> 'keep' OR position >= 7776000", name=op.f("ck_audit_mark_kept_long_enough")),
    )
    op.create_table(
        "audit",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        _text("node"),
        _text("actor"),
        _text("study"),
        sa.Column("outcome", sa.Integer(), nullable=False, server_default=sa.text("0")),
        _text("chain"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    rows = []
    for row in before:
        body = json.loads(row.body)
        rows.append(
            {
                "at": row.at,
                "kind": row.kind,
                "body": row.body,
                "actor": str(body.get("by", "")),
                "study": str(body.get("study", "")),
            }
        )
    if rows:
        connection.execute(
            sa.text("INSERT INTO audit (at, kind, body, actor, study) VALUES (:at, :kind, :body, :actor, :study)"), rows
        )
    op.create_index("ix_audit_at", "audit", ["at", "id"])
    op.create_index("ix_audit_node", "audit", ["node", "id"])
    _partial("ix_audit_study", "audit", ["study", "id"], "study != ''")
    keep_for_its_time(connection)

    op.add_column("tally", _count("audited"))
    op.execute("UPDATE tally SET audited = received")
    _partial("ix_tally_untold", "tally", ["association_id"], "received > audited")
    op.add_column("association_log", _count("audited"))
    op.execute("UPDATE association_log SET audited = tries")
    _partial("ix_association_log_untold", "association_log", ["ended_at"], "word != '' AND tries > audited")
    op.execute(
        "INSERT INTO audit_mark (mark, position) SELECT 'attempts', max(id) FROM attempt HAVING max(id) IS NOT NULL"
    )

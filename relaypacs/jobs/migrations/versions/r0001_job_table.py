"""The job table: associations, instances, deliveries, attempts, audit, checkpoints, tallies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from relaypacs.jobs.audit_dialect import make_append_only
from relaypacs.jobs.dialect import BigInt

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

LIVE = "state IN ('active', 'deferred', 'held', 'queued')"
OWED = "state IN ('active', 'deferred', 'failed', 'held', 'queued')"


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default="")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, BigInt, nullable=False, server_default=sa.text("0"))


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false())


def _index(name: str, table: str, *columns: str, where: str | None = None, unique: bool = False) -> None:
    clause = sa.text(where) if where else None
    op.create_index(
        name, table, [sa.text(one) for one in columns], unique=unique, sqlite_where=clause, postgresql_where=clause
    )


def upgrade() -> None:
    """Create everything."""
    true = "1" if op.get_bind().dialect.name == "sqlite" else "true"
    op.create_table(
        "association",
        sa.Column("association_id", sa.Text(), nullable=False),
        _text("calling_ae"),
        _text("called_ae"),
        _text("peer"),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        _text("outcome"),
        _text("reason"),
        sa.Column("objects", BigInt),
        sa.Column("bytes", BigInt),
        sa.PrimaryKeyConstraint("association_id", name=op.f("pk_association")),
    )
    op.create_table(
        "instance",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        _text("sop_class_uid"),
        _text("transfer_syntax_uid"),
        _text("study_instance_uid"),
        _text("series_instance_uid"),
        _text("accession_number"),
        _text("patient_id"),
        _text("study_date"),
        _text("modality"),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        _text("rule"),
        _flag("conflict"),
        _text("problem"),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text()),
        _count("file_offset"),
        _count("file_length"),
        _count("dataset_offset"),
        _count("dataset_length"),
        _count("dataset_crc32c"),
        sa.Column("staged_key", sa.Text()),
        sa.Column("staged_at", sa.Double()),
        sa.Column("purging_key", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", "digest", name=op.f("uq_instance_sop_instance_uid")),
        sa.CheckConstraint("verdict IN ('dropped', 'routed', 'unrouted')", name=op.f("ck_instance_verdict")),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.association_id"], name=op.f("fk_instance_association_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "delivery",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("instance_id", BigInt, nullable=False),
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("home", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("study_at", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        _flag("ready"),
        sa.Column("due_at", sa.Double()),
        _count("token"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0")),
        _text("reason"),
        sa.Column("status", sa.Integer()),
        _flag("warning"),
        sa.Column("settled_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.CheckConstraint(
            "state IN ('active', 'deferred', 'delivered', 'discarded', 'failed', 'held', 'queued')",
            name=op.f("ck_delivery_state"),
        ),
        sa.CheckConstraint("state <> 'queued' OR ready", name=op.f("ck_delivery_queued_is_ready")),
        sa.CheckConstraint(
            "state IN ('active', 'deferred', 'queued') OR NOT ready", name=op.f("ck_delivery_ready_is_pending")
        ),
        sa.CheckConstraint(
            "(state IN ('active', 'deferred') AND NOT ready) = (due_at IS NOT NULL)",
            name=op.f("ck_delivery_waiting_has_its_time"),
        ),
        sa.CheckConstraint(
            "(state IN ('delivered', 'failed', 'discarded')) = (settled_at IS NOT NULL)",
            name=op.f("ck_delivery_settled"),
        ),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_delivery_instance_id")),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.association_id"], name=op.f("fk_delivery_association_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "attempt",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("delivery_id", BigInt, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        _text("scope"),
        sa.Column("status", sa.Integer()),
        _text("reason"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempt")),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_attempt_delivery_id")),
    )
    op.create_table(
        "audit",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        _count("end"),
        _count("number"),
        _count("chain"),
        sa.PrimaryKeyConstraint("node", "generation", name=op.f("pk_checkpoint")),
    )
    op.create_table(
        "tally",
        sa.Column("association_id", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        _count("received"),
        _count("duplicates"),
        _count("dropped"),
        _count("unrouted"),
        _count("routed"),
        sa.PrimaryKeyConstraint("association_id", "study_instance_uid", name=op.f("pk_tally")),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.association_id"], name=op.f("fk_tally_association_id")
        ),
    )
    _index("ix_instance_study", "instance", "study_instance_uid")
    _index("ix_instance_series", "instance", "series_instance_uid")
    _index("ix_instance_accession", "instance", "accession_number", where="accession_number != ''")
    _index("ix_instance_patient", "instance", "patient_id", where="patient_id != ''")
    _index("ix_instance_association", "instance", "association_id")
    _index("ix_instance_generation", "instance", "node", "generation", where="generation IS NOT NULL")
    _index(
        "ix_instance_unstaged",
        "instance",
        "node",
        "received_at",
        where="generation IS NOT NULL AND staged_key IS NULL",
    )
    _index("ix_instance_staged", "instance", "node", "staged_at", "id", where="staged_key IS NOT NULL")
    _index("ix_instance_purging", "instance", "node", where="purging_key IS NOT NULL")
    _index("ix_instance_unrouted", "instance", "verdict", where="verdict = 'unrouted'")
    _index("ix_instance_conflict", "instance", '"conflict"', where=f'"conflict" = {true}')
    _index("ix_instance_unparsed", "instance", "problem", where="problem != ''")
    _index("uq_delivery_live", "delivery", "instance_id", "destination", where=LIVE, unique=True)
    _index(
        "ix_delivery_claim",
        "delivery",
        "destination",
        "home",
        "priority DESC",
        "study_at",
        "study_instance_uid",
        "id",
        where=f"ready = {true}",
    )
    _index("ix_delivery_due", "delivery", "destination", "due_at", where="due_at IS NOT NULL")
    _index("ix_delivery_study", "delivery", "study_instance_uid", "destination", "study_at", where=LIVE)
    _index("ix_delivery_owed", "delivery", "destination", "state", "queued_at", where=OWED)
    _index("ix_delivery_discarded", "delivery", "state", where="state IN ('discarded')")
    _index("ix_delivery_instance", "delivery", "instance_id")
    _index("ix_delivery_association", "delivery", "association_id")
    _index("ix_attempt_delivery", "attempt", "delivery_id")
    _index("ix_tally_study", "tally", "study_instance_uid")
    make_append_only(op.get_bind(), "audit")

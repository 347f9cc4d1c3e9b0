"""The job table's tables, constraints and indexes, as SQLAlchemy Core sees them.

The rooms' other files build statements on these; `migrations/` builds the tables (a test holds both equal). What must
never be is forbidden here: two live deliveries of one instance to one destination, a state that does not exist, a
lease without an end. Every query that runs while objects flow has its index, and a condition
that an index is limited to is written once, here, and used by the queries: SQLite takes a partial index only if the
query repeats its condition literally. Times are seconds since the epoch, UTC. No table has a column for a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
    literal_column,
    text,
    true,
)

from relaypacs.jobs.dialect import BigInt
from relaypacs.jobs.states import LIVE_STATES, OWED_STATES, PENDING_STATES
from relaypacs.model import Routed, State

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, BigInt, nullable=False, server_default=text("0"))


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean(create_constraint=False), nullable=False, server_default=false())


def _time(name: str, *, nullable: bool = True) -> Column[float]:
    return Column(name, Double, nullable=nullable)


def _one_of(values: Iterable[str]) -> str:
    """`('a', 'b')`, written out as a check or a partial index needs it."""
    return "(" + ", ".join(f"'{value}'" for value in sorted(values)) + ")"


def state_in(states: Iterable[State]) -> ColumnElement[bool]:
    """`delivery.state IN (…)`, with the states written out."""
    return delivery.c.state.in_([literal_column(f"'{state}'") for state in sorted(states)])


association = Table(
    "association",
    metadata,
    Column("association_id", Text, primary_key=True),
    _text("calling_ae"),
    _text("called_ae"),
    _text("peer"),
    _time("started_at"),
    # What its end told; absent while it is open, or for ever if its process died.
    _time("ended_at"),
    _text("outcome"),
    _text("reason"),
    Column("objects", BigInt),
    Column("bytes", BigInt),
)

instance = Table(
    "instance",
    metadata,
    Column("id", BigInt, primary_key=True),
    Column("association_id", ForeignKey("association.association_id"), nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    Column("digest", Text, nullable=False),
    _text("sop_class_uid"),
    _text("transfer_syntax_uid"),
    _text("study_instance_uid"),
    _text("series_instance_uid"),
    _text("accession_number"),
    _text("patient_id"),
    _text("study_date"),
    _text("modality"),
    _time("received_at", nullable=False),
    Column("verdict", Text, nullable=False),
    _text("rule"),
    _flag("conflict"),
    # Why the head could not be read; empty when it could.
    _text("problem"),
    # Where the bytes are (model.Location).
    Column("node", Text, nullable=False),
    Column("generation", Text),
    _count("file_offset"),
    _count("file_length"),
    _count("dataset_offset"),
    _count("dataset_length"),
    _count("dataset_crc32c"),
    Column("staged_key", Text),
    _time("staged_at"),
    # A file under this key may be in staging and doesn't count as bytes: it is being put, or it is being deleted and
    # nothing is staged under its key meanwhile.
    Column("purging_key", Text),
    UniqueConstraint("sop_instance_uid", "digest"),
    CheckConstraint(f"verdict IN {_one_of(Routed)}", name="verdict"),
    sqlite_autoincrement=True,
)

HOT: ColumnElement[bool] = instance.c.generation.is_not(None)
"""The bytes are in a spool segment."""
UNSTAGED: ColumnElement[bool] = and_(HOT, instance.c.staged_key.is_(None))
"""The only bytes are in a spool segment."""
STAGED: ColumnElement[bool] = instance.c.staged_key.is_not(None)
PURGING: ColumnElement[bool] = instance.c.purging_key.is_not(None)
BARE: ColumnElement[bool] = and_(
    instance.c.generation.is_(None), instance.c.staged_key.is_(None), instance.c.purging_key.is_(None)
)
"""No bytes are kept any more."""
UNROUTED: ColumnElement[bool] = instance.c.verdict == literal_column(f"'{Routed.UNROUTED}'")
CONFLICT: ColumnElement[bool] = instance.c.conflict == true()
ALONE: ColumnElement[bool] = instance.c.conflict == false()
"""Nobody knows other bytes under its UID; one such per UID, so two nodes that receive both at once can't miss it."""
UNPARSED: ColumnElement[bool] = instance.c.problem != literal_column("''")
HAS_ACCESSION: ColumnElement[bool] = instance.c.accession_number != literal_column("''")
HAS_PATIENT: ColumnElement[bool] = instance.c.patient_id != literal_column("''")

delivery = Table(
    "delivery",
    metadata,
    Column("id", BigInt, primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), nullable=False),
    # The association whose reception (or re-sending) asked for it: the one the ledger counts it under.
    Column("association_id", ForeignKey("association.association_id"), nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("destination", Text, nullable=False),
    # The node that may claim it, because the bytes are there.
    Column("home", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    # When the study's oldest live delivery to this destination was queued: keeps a study together in the queue.
    _time("study_at", nullable=False),
    _time("queued_at", nullable=False),
    # May be claimed now. Otherwise, with `due_at`: an active one's lease ends then, a deferred one is tried then.
    _flag("ready"),
    _time("due_at"),
    _count("token"),
    # A random number of the claim it was last leased by: found by it if the claim's answer was lost, and not mistaken
    # for another's if ids were given out twice (rows a failover lost).
    _count("lease"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _text("reason"),
    Column("status", Integer),
    _flag("warning"),
    _time("settled_at"),
    # The destination in whose place this one was given it; empty where a rule or a person sends it here.
    _text("fallback_of"),
    CheckConstraint(f"state IN {_one_of(State)}", name="state"),
    CheckConstraint("state <> 'queued' OR ready", name="queued_is_ready"),
    CheckConstraint(f"state IN {_one_of(PENDING_STATES)} OR NOT ready", name="ready_is_pending"),
    CheckConstraint(
        "(state IN ('active', 'deferred') AND NOT ready) = (due_at IS NOT NULL)", name="waiting_has_its_time"
    ),
    CheckConstraint("(state IN ('delivered', 'failed', 'discarded')) = (settled_at IS NOT NULL)", name="settled"),
    sqlite_autoincrement=True,
)

LIVE: ColumnElement[bool] = state_in(LIVE_STATES)
"""Something is still to happen to it; one such per instance and destination."""
OWED: ColumnElement[bool] = state_in(OWED_STATES)
"""Live or failed: its bytes must stay."""
NOT_OVER: ColumnElement[bool] = delivery.c.state.not_in([literal_column("'delivered'"), literal_column("'discarded'")])
"""As `OWED`, where the deliveries are found by their instance: no index of what is owed fits it, so none is read."""
DISCARDED: ColumnElement[bool] = state_in([State.DISCARDED])
READY: ColumnElement[bool] = delivery.c.ready == true()
TIMED: ColumnElement[bool] = delivery.c.due_at.is_not(None)

attempt = Table(
    "attempt",
    metadata,
    Column("id", BigInt, primary_key=True),
    Column("delivery_id", ForeignKey("delivery.id"), nullable=False),
    Column("number", Integer, nullable=False),
    _time("started_at", nullable=False),
    _time("finished_at", nullable=False),
    Column("outcome", Text, nullable=False),
    _text("scope"),
    Column("status", Integer),
    _text("reason"),
    # The audit trail has looked through them to one: an id is never given twice.
    sqlite_autoincrement=True,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("node", Text, primary_key=True),
    Column("generation", Text, primary_key=True),
    _count("end"),
    _count("number"),
    _count("chain"),
)

node = Table(
    "node",
    metadata,
    Column("node", Text, primary_key=True),
    # Of its state folder: a name is one node's.
    Column("identity", Text, nullable=False),
    _time("started_at", nullable=False),
    # Of the database it saw when it last made sure that no rows are lost (`dialect.timeline`).
    _text("timeline"),
    # Since when it takes nothing more in, because a person is about to put it out of service.
    _time("draining_at"),
    # How often it has answered since then: counted, because clocks of machines differ.
    _count("drain_answers"),
    # When it last found that nothing more can come of it: no association is open, and all its spool has rows.
    _time("drained_at"),
)

tally = Table(
    "tally",
    metadata,
    Column("association_id", ForeignKey("association.association_id"), primary_key=True),
    Column("study_instance_uid", Text, primary_key=True),
    _count("received"),
    _count("duplicates"),
    _count("dropped"),
    _count("unrouted"),
    _count("routed"),
    # Of what was received: how much the audit trail tells of.
    _count("audited"),
)

# What the ledger still counts of rows that are no longer there.
forgotten = Table(
    "forgotten",
    metadata,
    Column("association_id", ForeignKey("association.association_id"), primary_key=True),
    Column("study_instance_uid", Text, primary_key=True),
    _count("instances"),
    _count("delivered"),
    _count("discarded"),
)


def _index(
    name: str, *columns: ColumnElement[Any], where: ColumnElement[bool] | None = None, unique: bool = False
) -> None:
    Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


_index("ix_association_started", association.c.started_at, association.c.association_id)
_index("uq_instance_alone", instance.c.sop_instance_uid, where=ALONE, unique=True)
_index("ix_instance_study", instance.c.study_instance_uid)
_index("ix_instance_series", instance.c.series_instance_uid)
_index("ix_instance_accession", instance.c.accession_number, where=HAS_ACCESSION)
_index("ix_instance_patient", instance.c.patient_id, where=HAS_PATIENT)
_index("ix_instance_association", instance.c.association_id)
_index("ix_instance_generation", instance.c.node, instance.c.generation, where=HOT)
_index("ix_instance_unstaged", instance.c.node, instance.c.received_at, where=UNSTAGED)
_index("ix_instance_staged", instance.c.node, instance.c.staged_at, instance.c.id, where=STAGED)
_index("ix_instance_staged_key", instance.c.staged_key, where=STAGED)
_index("ix_instance_purging", instance.c.node, where=PURGING)
_index("ix_instance_bare", instance.c.received_at, instance.c.id, where=BARE)
_index("ix_instance_unrouted", instance.c.verdict, where=UNROUTED)
_index("ix_instance_conflict", instance.c.conflict, where=CONFLICT)
_index("ix_instance_unparsed", instance.c.problem, where=UNPARSED)

_index("uq_delivery_live", delivery.c.instance_id, delivery.c.destination, where=LIVE, unique=True)
_index(
    "ix_delivery_claim",
    delivery.c.destination,
    delivery.c.home,
    delivery.c.priority.desc(),
    delivery.c.study_at,
    delivery.c.study_instance_uid,
    delivery.c.id,
    where=READY,
)
_index("ix_delivery_due", delivery.c.destination, delivery.c.due_at, where=TIMED)
_index("ix_delivery_study", delivery.c.study_instance_uid, delivery.c.destination, delivery.c.study_at, where=LIVE)
_index("ix_delivery_owed", delivery.c.destination, delivery.c.state, delivery.c.queued_at, where=OWED)
_index("ix_delivery_discarded", delivery.c.state, where=DISCARDED)
_index("ix_delivery_instance", delivery.c.instance_id)
_index("ix_delivery_association", delivery.c.association_id)
_index("ix_attempt_delivery", attempt.c.delivery_id)
_index("ix_tally_study", tally.c.study_instance_uid)
_index("ix_forgotten_study", forgotten.c.study_instance_uid)

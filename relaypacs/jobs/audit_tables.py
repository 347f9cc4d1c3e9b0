"""The audit trail's tables: `audit`, to which rows are only added, and `audit_mark`, how far they were read or made.

A row's `chain` is a hash over the row before and itself (`audit_chain`), so that rows that were changed, left out or
put in show. `audit_mark` has a row per name: how far deliveries were looked through, how far a node's rows were sent,
where the chain begins since rows were deleted, how long rows are kept.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    Table,
    Text,
    and_,
    event,
    literal_column,
    text,
)

from relaypacs.jobs.association_tables import REFUSED, association_log
from relaypacs.jobs.audit_dialect import LEAST_SECONDS, keep_for_its_time, replace_nothing
from relaypacs.jobs.dialect import BigInt
from relaypacs.jobs.schema import metadata, tally


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


audit_mark = Table(
    "audit_mark",
    metadata,
    Column("mark", Text, primary_key=True),
    Column("position", BigInt, nullable=False, server_default=text("0")),
    Column("at", Double),
    _text("chain"),
    CheckConstraint(f"mark <> 'keep' OR position >= {LEAST_SECONDS}", name="kept_long_enough"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInt, primary_key=True),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    # JSON; never a name.
    Column("body", Text, nullable=False),
    # The node that wrote it; empty where a command did that knows none.
    _text("node"),
    # Whoever did it: a login name, or an AE title.
    _text("actor"),
    _text("study"),
    # EventOutcomeIndicator of PS3.15 A.5.
    Column("outcome", Integer, nullable=False, server_default=text("0")),
    _text("chain"),
    # An id is never given twice: whoever has read to one goes on behind it.
    sqlite_autoincrement=True,
)
audit.add_is_dependent_on(audit_mark)

OF_A_STUDY: ColumnElement[bool] = audit.c.study != literal_column("''")
UNTOLD_RECEIVED: ColumnElement[bool] = tally.c.received > tally.c.audited
"""Objects came that the trail does not tell of yet."""
UNTOLD_REFUSED: ColumnElement[bool] = and_(REFUSED, association_log.c.tries > association_log.c.audited)
"""Somebody was refused, and the trail does not tell how often yet."""

Index("ix_audit_at", audit.c.at, audit.c.id)
Index("ix_audit_node", audit.c.node, audit.c.id)
Index("ix_audit_study", audit.c.study, audit.c.id, sqlite_where=OF_A_STUDY, postgresql_where=OF_A_STUDY)
Index(
    "ix_tally_untold",
    tally.c.association_id,
    sqlite_where=UNTOLD_RECEIVED,
    postgresql_where=UNTOLD_RECEIVED,
)
Index(
    "ix_association_log_untold",
    association_log.c.ended_at,
    sqlite_where=UNTOLD_REFUSED,
    postgresql_where=UNTOLD_REFUSED,
)


@event.listens_for(audit, "after_create")
def _append_only(_target: Table, connection: Connection, **_: object) -> None:
    keep_for_its_time(connection)
    replace_nothing(connection)

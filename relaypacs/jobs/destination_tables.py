"""Tables about destinations, beside those of `schema`: since when one is down, and what was verified to be there.

`outage` has a row per destination that does not answer a node; `verification` one per study that was delivered to a
destination whose `verify` asks for it. Neither counts in the ledger.
"""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Double, Index, Integer, Table, Text, text

from relaypacs.jobs.dialect import BigInt
from relaypacs.jobs.schema import metadata

outage = Table(
    "outage",
    metadata,
    Column("destination", Text, primary_key=True),
    # That sees it so.
    Column("node", Text, primary_key=True),
    Column("since", Double, nullable=False),
    # Where its deliveries went meanwhile, and how many.
    Column("fallback", Text, nullable=False, server_default=""),
    Column("given", BigInt, nullable=False, server_default=text("0")),
)

verification = Table(
    "verification",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("study_instance_uid", Text, primary_key=True),
    # That delivered last, and asks.
    Column("node", Text, nullable=False),
    # What was settled from then on is looked for: what was there before, the destination may have put away.
    Column("since", Double, nullable=False),
    # When it is asked; absent once the question is settled.
    Column("due_at", Double),
    # How often what was missing was sent again, and how often it could not be asked.
    Column("rounds", Integer, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("expected", Integer, nullable=False, server_default=text("0")),
    Column("found", Integer, nullable=False, server_default=text("0")),
    Column("checked_at", Double),
    Column("reason", Text, nullable=False, server_default=""),
)

TO_BE_ASKED: ColumnElement[bool] = verification.c.due_at.is_not(None)

Index(
    "ix_verification_due",
    verification.c.node,
    verification.c.due_at,
    sqlite_where=TO_BE_ASKED,
    postgresql_where=TO_BE_ASKED,
)
Index("ix_verification_study", verification.c.study_instance_uid)

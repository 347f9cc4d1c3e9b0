"""The tables of the association log, beside those of `schema` and apart from them: the ledger does not look here.

`association_log` has a row per association that was asked for, or per kind of refusal of one peer, with its number of
tries. What was proposed is kept once in `proposal`, under its digest: a modality proposes the same every time.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ColumnElement, Double, Index, Table, Text, false, literal_column, text

from relaypacs.jobs.dialect import BigInt
from relaypacs.jobs.schema import metadata


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, BigInt, nullable=False, server_default=text("0"))


association_log = Table(
    "association_log",
    metadata,
    Column("association_id", Text, primary_key=True),
    _text("node"),
    _text("calling_ae"),
    _text("called_ae"),
    _text("peer"),
    Column("tls", Boolean(create_constraint=False), nullable=False, server_default=false()),
    # Of a refusal: the first and the latest try.
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double, nullable=False),
    _text("outcome"),
    # Why it was refused, or that all its contexts were; empty if it was served.
    _text("word"),
    _text("reason"),
    _count("tries"),
    _count("objects"),
    _count("bytes"),
    _text("proposal"),
    # Of a refusal: how many tries the audit trail tells of.
    _count("audited"),
)

proposal = Table("proposal", metadata, Column("digest", Text, primary_key=True), _text("contexts"))

REFUSED: ColumnElement[bool] = association_log.c.word != literal_column("''")
"""Nothing could come of it."""

Index("ix_association_log_ended", association_log.c.ended_at, association_log.c.association_id)
Index("ix_association_log_caller", association_log.c.calling_ae, association_log.c.ended_at)
Index("ix_association_log_refused", association_log.c.ended_at, sqlite_where=REFUSED, postgresql_where=REFUSED)
Index("ix_association_log_proposal", association_log.c.proposal)

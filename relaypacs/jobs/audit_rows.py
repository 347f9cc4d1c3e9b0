"""The audit trail's rows: added one behind the other, each with a hash over the one before; read; proved unchanged.

Called within the transactions of whoever has something to tell (`people`, `audit_gather`, `audit`). A row is added
under a lock that ends with its transaction, so ids are in the order of commits: whoever has read to an id has missed
nothing before it. Take that lock last: who holds it waits for nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from relaypacs.jobs.audit_dialect import lock_for_audit
from relaypacs.jobs.audit_tables import OF_A_STUDY, audit, audit_mark
from relaypacs.jobs.text import storable

SUCCESS, MINOR, SERIOUS = 0, 4, 8
"""EventOutcomeIndicator, PS3.15 A.5.1.1."""
KINDS = frozenset(
    {
        *("start", "stop", "received", "delivered", "failed", "refused", "config-taken", "retention"),
        *("hold", "release", "retry", "discard", "resend", "export", "audit", "config", "drain", "give-up"),
        *("reconcile", "rebuild"),
    }
)
"""What is told of (docs/audit.md): first by the node, then what people do."""
PRUNED = "pruned"
"""The mark of where the chain begins: the last row that was deleted."""
LOST_NODE = "lost "
"""What the mark of a node begins with that is gone for good: its name follows."""
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that is to be told. `at`: seconds since the epoch."""

    at: float
    kind: str
    """One of `KINDS`."""
    node: str = ""
    actor: str = ""
    """Who did it: a login name, or an AE title."""
    study: str = ""
    outcome: int = SUCCESS
    body: Mapping[str, object] = field(default_factory=dict)
    """What else is told of it, for JSON; never a name of a patient."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What the trail tells of one event, under its id."""

    id: int
    entry: Entry
    chain: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: those that every given part fits."""

    since: float | None = None
    until: float | None = None
    actor: str | None = None
    study: str | None = None
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of comparing the chain: how many rows it joins, those of before there was one, and where it breaks."""

    rows: int
    unchained: int
    broken_at: int | None
    """The first row that is not what it was, or before which one is missing."""
    last: int
    head: str
    """Id and hash of the last row: noted elsewhere, they prove later that all before is as it was."""


NOTHING_CHECKED = Checked(rows=0, unchained=0, broken_at=None, last=0, head="")


def add(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add rows, in this order."""
    if not entries:
        return
    lock_for_audit(connection)
    last = select(func.max(audit.c.id)).scalar_subquery()
    chain = connection.scalar(select(audit.c.chain).where(audit.c.id == last))
    if chain is None:
        chain = connection.scalar(select(audit_mark.c.chain).where(audit_mark.c.mark == PRUNED)) or ""
    rows = []
    for entry in entries:
        row: dict[str, object] = {
            "at": float(entry.at),
            "kind": entry.kind,
            "body": json.dumps(entry.body),
            "node": storable(entry.node),
            "actor": storable(entry.actor),
            "study": storable(entry.study),
            "outcome": entry.outcome,
        }
        chain = link(chain, row)
        rows.append({**row, "chain": chain})
    connection.execute(insert(audit), rows)


def link(before: str, row: Mapping[str, object]) -> str:
    """The hash of a row: SHA-256 over that of the row before and all it says."""
    said = [before, *(row[name] for name in ("at", "kind", "body", "node", "actor", "study", "outcome"))]
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def find(connection: Connection, wanted: Wanted, *, limit: int) -> list[AuditRow]:
    """The latest rows that `wanted` fits, the latest first."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(audit.c.at >= wanted.since)
    if wanted.until is not None:
        conditions.append(audit.c.at <= wanted.until)
    if wanted.actor is not None:
        conditions.append(audit.c.actor == storable(wanted.actor))
    if wanted.study is not None:
        # Both conditions: the second is the index's own.
        conditions += [audit.c.study == storable(wanted.study), OF_A_STUDY]
    if wanted.kinds:
        conditions.append(audit.c.kind.in_(sorted(wanted.kinds)))
    return _read(connection, conditions, limit=limit, latest=True)


def behind(connection: Connection, node: str, position: int, *, limit: int) -> list[AuditRow]:
    """A node's rows behind an id, in their order."""
    return _read(connection, [audit.c.node == node, audit.c.id > position], limit=limit)


def check(connection: Connection, before: Checked) -> tuple[Checked, bool]:
    """Go on comparing rows with the chain behind `before`, a page of them; whether there are more."""
    page = _page(connection, before.last)
    found = _compared(before, page)
    if found.broken_at is not None or before == NOTHING_CHECKED:
        # Asked after the page was read: rows that are deleted meanwhile in their time are no gap.
        begun = connection.execute(
            select(audit_mark.c.chain, audit_mark.c.position).where(audit_mark.c.mark == PRUNED)
        ).one_or_none()
        if begun is not None and begun.position > before.last:
            return replace(before, last=begun.position, head=begun.chain), True
    return found, len(page) == _PAGE and found.broken_at is None


def _compared(before: Checked, page: Sequence[Mapping[str, Any]]) -> Checked:
    rows, unchained, after, chain = before.rows, before.unchained, before.last, before.head
    for row in page:
        after = row["id"]
        if not row["chain"] and not chain and not rows:
            unchained += 1
            continue
        if row["chain"] != link(chain, row):
            return Checked(rows, unchained, after, after, chain)
        chain = row["chain"]
        rows += 1
    return Checked(rows, unchained, None, after, chain)


def _page(connection: Connection, after: int) -> list[dict[str, Any]]:
    found = connection.execute(select(audit).where(audit.c.id > after).order_by(audit.c.id).limit(_PAGE))
    return [dict(row._mapping) for row in found]


def _read(
    connection: Connection, conditions: Sequence[ColumnElement[bool]], *, limit: int, latest: bool = False
) -> list[AuditRow]:
    order = audit.c.id.desc() if latest else audit.c.id
    rows = connection.execute(select(audit).where(*conditions).order_by(order).limit(limit))
    return [
        AuditRow(
            row.id,
            Entry(row.at, row.kind, row.node, row.actor, row.study, row.outcome, _body(row.body)),
            row.chain,
        )
        for row in rows
    ]


def _body(text: str) -> Mapping[str, object]:
    """What a row's body says; of one that somebody put there behind our back its text."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"unreadable": text[:1000]}

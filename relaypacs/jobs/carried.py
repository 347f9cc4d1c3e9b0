"""Associations of which no row is left are carried forward: their sums go into one, so that nothing grows for ever.

Called by `associations.Book` for the sweep. In total the ledger stays exact, and nothing of the one association, or of
a study that only it brought, is known any more. Only what is balanced is carried, all of which the audit trail tells,
and that ended long ago; what never ended, because its process died, a year after it began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, tuple_

from relaypacs.failpoint import reach
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.schema import association, delivery, forgotten, instance, tally

CARRIED = "carried forward"
"""The association under which they are counted."""
LOOKS_AT = 500
"""Associations one call looks at; the next goes on behind them."""
UNENDED_SECONDS = 365 * 86400.0
_TALLIES = ("received", "duplicates", "dropped", "unrouted", "routed", "audited")
_FORGOTTEN = ("instances", "delivered", "discarded")
Place = tuple[float, str]
"""Where a look goes on: when an association started, and its id."""


def _left(column: ColumnElement[str], key: ColumnElement[int]) -> ColumnElement[bool]:
    found = select(key).where(column == association.c.association_id).limit(1)
    return found.scalar_subquery().is_not(None)


_LEFT = _left(instance.c.association_id, instance.c.id) | _left(delivery.c.association_id, delivery.c.id)
"""Whether rows of it are left: instances it brought, deliveries it asked for."""


def over(connection: Connection, *, ended_before: float, after: Place, limit: int) -> tuple[list[str], Place | None]:
    """Associations that ended before that time and have no rows, at most `limit` of the `LOOKS_AT` behind `after`.

    Also where to go on, or None at the end.
    """
    ended = func.coalesce(association.c.ended_at, association.c.started_at + UNENDED_SECONDS) < ended_before
    rows = connection.execute(
        select(association.c.association_id, association.c.started_at, and_(ended, ~_LEFT).label("over"))
        .where(association.c.started_at < ended_before)
        .where(tuple_(association.c.started_at, association.c.association_id) > after)
        .order_by(association.c.started_at, association.c.association_id)
        .limit(LOOKS_AT)
    ).all()
    chosen: list[str] = []
    for row in rows:
        if row.over:
            chosen.append(row.association_id)
            if len(chosen) == limit:
                return chosen, (row.started_at, row.association_id)
    return chosen, (rows[-1].started_at, rows[-1].association_id) if len(rows) == LOOKS_AT else None


def carry_forward(connection: Connection, association_ids: Sequence[str]) -> int:
    """Do so with those of these that still have no rows and are balanced; returns how many."""
    # Locked: whoever adds a row of one now waits, and then makes it anew.
    rows = connection.execute(
        select(association.c.association_id, association.c.objects)
        .where(association.c.association_id.in_(association_ids), ~_LEFT)
        .order_by(association.c.association_id)
        .with_for_update(of=association, skip_locked=True)
    ).all()
    ids = [row.association_id for row in rows]
    sums = _sums(connection, ids)
    gone = [row.association_id for row in rows if _is_balanced(row.association_id, row.objects, sums)]
    if not gone:
        return 0
    total: Counter[str] = Counter()
    for (association_id, _), counts in sums.items():
        if association_id in gone:
            total.update(counts)
    connection.execute(delete(forgotten).where(forgotten.c.association_id.in_(gone)))
    connection.execute(delete(tally).where(tally.c.association_id.in_(gone)))
    connection.execute(delete(association).where(association.c.association_id.in_(gone)))
    reach("jobs.mid-carry")
    key = {"association_id": CARRIED, "study_instance_uid": ""}
    upsert(connection, association, [{"association_id": CARRIED}])
    upsert(connection, tally, [key | {name: total[name] for name in _TALLIES}], add=_TALLIES)
    upsert(connection, forgotten, [key | {name: total[name] for name in _FORGOTTEN}], add=_FORGOTTEN)
    return len(gone)


_Sums = dict[tuple[str, str], Counter[str]]
"""What is counted of an association and a study."""


def _sums(connection: Connection, association_ids: Sequence[str]) -> _Sums:
    sums: _Sums = {}
    for table, names in ((tally, _TALLIES), (forgotten, _FORGOTTEN)):
        for row in connection.execute(select(table).where(table.c.association_id.in_(association_ids))):
            counts = sums.setdefault((row.association_id, row.study_instance_uid), Counter())
            counts.update({name: getattr(row, name) for name in names})
    return sums


def _is_balanced(name: str, objects: int | None, sums: _Sums) -> bool:
    """Whether it may go: an imbalance stays where it can be looked at. `objects`: its own count, if it has ended."""
    mine = [counts for (association_id, _), counts in sums.items() if association_id == name]
    if objects is not None and objects != sum(counts["received"] for counts in mine):
        return False
    return all(
        counts["received"] == counts["instances"] + counts["duplicates"] == counts["audited"]
        and counts["routed"] == counts["delivered"] + counts["discarded"]
        for counts in mine
    )

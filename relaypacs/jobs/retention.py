"""Rows that were over long ago are deleted, and the ledger goes on counting them.

Called by `JobStore` for the sweep. An instance is over when its bytes are gone and every delivery of it is delivered or
discarded; what is owed, held, failed or matched by no rule is never deleted, however old. What goes is added to
`forgotten` in the same transaction, by association and study, so the ledger's equations stay exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, select, tuple_

from relaypacs.failpoint import reach
from relaypacs.jobs.audit_gather import ATTEMPTS
from relaypacs.jobs.audit_tables import audit_mark
from relaypacs.jobs.bytes import has_delivery, owed
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.schema import BARE, attempt, delivery, forgotten, instance
from relaypacs.jobs.verification import forget_verified
from relaypacs.model import State

LOOKS_AT = 2000
"""Instances one call looks at; the next goes on behind them."""
_COUNTS = ("instances", "delivered", "discarded")


_TOLD = select(audit_mark.c.position).where(audit_mark.c.mark == ATTEMPTS).scalar_subquery()
_UNTOLD = (
    select(attempt.c.id)
    .join_from(attempt, delivery, attempt.c.delivery_id == delivery.c.id)
    .where(delivery.c.instance_id == instance.c.id, attempt.c.id > _TOLD)
    .exists()
)
"""The audit trail, where there is one, has not told yet how a delivery ended. Times alone do not say: a settlement has
that of its beginning, and may wait for the table."""


def over(
    connection: Connection, *, settled_before: float, after: tuple[float, int], limit: int
) -> tuple[list[int], tuple[float, int] | None]:
    """Instances received and settled before that time and over, at most `limit` of the `LOOKS_AT` behind `after`.

    Also where to go on, (received_at, id), or None at the end.
    """
    recent = has_delivery(delivery.c.settled_at >= settled_before)
    rows = connection.execute(
        select(instance.c.id, instance.c.received_at, (~owed() & ~recent).label("over"))
        .where(BARE, instance.c.received_at < settled_before)
        .where(tuple_(instance.c.received_at, instance.c.id) > after)
        .order_by(instance.c.received_at, instance.c.id)
        .limit(LOOKS_AT)
    ).all()
    chosen: list[int] = []
    for row in rows:
        if row.over:
            chosen.append(row.id)
            if len(chosen) == limit:
                return chosen, (row.received_at, row.id)
    return chosen, (rows[-1].received_at, rows[-1].id) if len(rows) == LOOKS_AT else None


def forget(connection: Connection, instance_ids: Sequence[int]) -> int:
    """Delete those of the instances that are still over, with their deliveries and attempts; returns how many.

    What another node deletes at the same time is left to it.
    """
    locked = (
        select(instance.c.id)
        .where(instance.c.id.in_(instance_ids), BARE)
        .order_by(instance.c.id)
        .with_for_update(skip_locked=True)
    )
    ids = connection.scalars(locked).all()
    # Asked again with the rows locked: nobody adds a delivery now.
    ids = connection.scalars(select(instance.c.id).where(instance.c.id.in_(ids), ~owed(), ~_UNTOLD)).all()
    if not ids:
        return 0
    counts: dict[tuple[str, str], Counter[str]] = {}
    for association_id, study, count in connection.execute(
        select(instance.c.association_id, instance.c.study_instance_uid, func.count())
        .where(instance.c.id.in_(ids))
        .group_by(instance.c.association_id, instance.c.study_instance_uid)
    ):
        counts.setdefault((association_id, study), Counter())["instances"] += count
    of_these = delivery.c.instance_id.in_(ids)
    for association_id, study, state, count in connection.execute(
        select(delivery.c.association_id, delivery.c.study_instance_uid, delivery.c.state, func.count())
        .where(of_these)
        .group_by(delivery.c.association_id, delivery.c.study_instance_uid, delivery.c.state)
    ):
        counts.setdefault((association_id, study), Counter())[State(state).value] += count
    connection.execute(delete(attempt).where(attempt.c.delivery_id.in_(select(delivery.c.id).where(of_these))))
    connection.execute(delete(delivery).where(of_these))
    connection.execute(delete(instance).where(instance.c.id.in_(ids)))
    forget_verified(connection, {study for _, study in counts})
    reach("jobs.mid-forget")
    rows = [
        {"association_id": association_id, "study_instance_uid": study, **{name: count[name] for name in _COUNTS}}
        for (association_id, study), count in sorted(counts.items())
    ]
    upsert(connection, forgotten, rows, add=_COUNTS)
    return len(ids)

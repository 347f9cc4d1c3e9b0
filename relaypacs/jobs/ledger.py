"""The ledger: what was received and routed, against what there is (DESIGN section 2). Anything but 0 is an alarm.

Called by `JobStore` in one read transaction, so that both sides are of the same moment. The left sides are the tallies,
counted as objects arrive; the right sides are counted from the rows; an ended association's own count, which its
receive process kept, is a third witness. In total the states that are owed are counted from their own index and
`delivered` is what the others leave of all deliveries, so that its cost does not follow all that was ever delivered.
"""

from __future__ import annotations

from collections import Counter

from sqlalchemy import ColumnElement, Connection, func, select

from relaypacs.jobs.schema import DISCARDED, OWED, association, delivery, forgotten, instance, tally
from relaypacs.jobs.states import PENDING_STATES
from relaypacs.jobs.values import Ledger
from relaypacs.model import State


def ledger(connection: Connection, *, association_id: str | None, study: str | None) -> Ledger:
    """Both equations, in total or for one association, one study, or the one within the other."""
    received, duplicates, dropped, unrouted, routed = _tallies(connection, association_id, study)
    of_instances = _restricted(instance.c.association_id, association_id, instance.c.study_instance_uid, study)
    instances = connection.scalar(select(func.count()).select_from(instance).where(*of_instances)) or 0
    states = _all_states(connection) if association_id is study is None else _states(connection, association_id, study)
    gone, delivered, discarded = _forgotten(connection, association_id, study)
    instances += gone
    states += Counter({State.DELIVERED: delivered, State.DISCARDED: discarded})
    imbalance = (
        abs(received - instances - duplicates)
        + abs(routed - states.total())
        + (_uncounted(connection, association_id) if study is None else 0)
    )
    return Ledger(
        received=received,
        instances=instances,
        duplicates=duplicates,
        dropped=dropped,
        unrouted=unrouted,
        routed=routed,
        delivered=states[State.DELIVERED],
        pending=sum(states[state] for state in PENDING_STATES),
        failed=states[State.FAILED],
        held=states[State.HELD],
        discarded=states[State.DISCARDED],
        imbalance=imbalance,
    )


def _restricted(
    of_association: ColumnElement[str], association_id: str | None, of_study: ColumnElement[str], study: str | None
) -> list[ColumnElement[bool]]:
    wanted = ((of_association, association_id), (of_study, study))
    return [column == value for column, value in wanted if value is not None]


def _tallies(connection: Connection, association_id: str | None, study: str | None) -> tuple[int, int, int, int, int]:
    columns = (tally.c.received, tally.c.duplicates, tally.c.dropped, tally.c.unrouted, tally.c.routed)
    row = connection.execute(
        select(*(func.coalesce(func.sum(column), 0) for column in columns)).where(
            *_restricted(tally.c.association_id, association_id, tally.c.study_instance_uid, study)
        )
    ).one()
    received, duplicates, dropped, unrouted, routed = (int(value) for value in row)
    return received, duplicates, dropped, unrouted, routed


def _forgotten(connection: Connection, association_id: str | None, study: str | None) -> tuple[int, int, int]:
    """Instances, delivered and discarded deliveries whose rows were deleted because they were over for long enough."""
    columns = (forgotten.c.instances, forgotten.c.delivered, forgotten.c.discarded)
    row = connection.execute(
        select(*(func.coalesce(func.sum(column), 0) for column in columns)).where(
            *_restricted(forgotten.c.association_id, association_id, forgotten.c.study_instance_uid, study)
        )
    ).one()
    instances, delivered, discarded = (int(value) for value in row)
    return instances, delivered, discarded


def _all_states(connection: Connection) -> Counter[State]:
    states: Counter[State] = Counter()
    for name, count in connection.execute(
        select(delivery.c.state, func.count()).where(OWED).group_by(delivery.c.destination, delivery.c.state)
    ):
        states[State(name)] += count
    states[State.DISCARDED] = connection.scalar(select(func.count()).select_from(delivery).where(DISCARDED)) or 0
    everything = connection.scalar(select(func.count()).select_from(delivery)) or 0
    states[State.DELIVERED] = everything - states.total()
    return states


def _states(connection: Connection, association_id: str | None, study: str | None) -> Counter[State]:
    counted = select(delivery.c.state, func.count()).group_by(delivery.c.state)
    if association_id is not None:
        counted = counted.where(delivery.c.association_id == association_id)
    if study is not None:
        # A delivery's study is its instance's; this way round there is an index for it.
        counted = counted.join_from(delivery, instance).where(instance.c.study_instance_uid == study)
    return Counter({State(name): count for name, count in connection.execute(counted)})


def _uncounted(connection: Connection, association_id: str | None) -> int:
    """By how many objects the counts of ended associations differ from what was taken in of them."""
    taken_in = (
        select(func.coalesce(func.sum(tally.c.received), 0))
        .where(tally.c.association_id == association.c.association_id)
        .scalar_subquery()
    )
    differences = select(func.coalesce(func.sum(func.abs(association.c.objects - taken_in)), 0)).where(
        association.c.ended_at.is_not(None)
    )
    if association_id is not None:
        differences = differences.where(association.c.association_id == association_id)
    return int(connection.scalar(differences) or 0)

"""Deliveries given to another destination while their own does not answer.

Called by `forward.fallback`, each method in one transaction. An instance is given to a fallback once, whatever became
of it there: one that has any delivery to it, by a rule or from an earlier outage, is left out. The ledger counts what
is given as routed; the delivery it was given for waits on, or ends as discarded with a reason that names the fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, case, delete, select, update

from relaypacs.failpoint import reach
from relaypacs.jobs.again import until_alone
from relaypacs.jobs.delivery import move
from relaypacs.jobs.destination_tables import outage
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.people import queue_anew
from relaypacs.jobs.schema import OWED, delivery, instance, state_in
from relaypacs.jobs.states import TRANSITIONS, Change

_Transaction = Callable[[], AbstractContextManager[Connection]]
WAITING = TRANSITIONS[Change.DIVERT][0]


@dataclass(frozen=True, slots=True)
class Outage:
    """A destination that does not answer a node. `since`: seconds since the epoch. `given`: deliveries that went to
    `fallback` meanwhile; none has before the first."""

    destination: str
    node: str
    since: float
    fallback: str
    given: int


class Fallbacks:
    """See the module."""

    def __init__(self, reading: _Transaction, writing: _Transaction, homes: Callable[[str], tuple[str, ...]]) -> None:
        self._reading, self._writing, self._homes = reading, writing, homes

    def began(self, destination: str, node: str, now: float) -> float:
        """The destination does not answer the node; since when, which may be before the node's last start."""
        with self._writing() as connection:
            upsert(connection, outage, [{"destination": destination, "node": node, "since": now}])
            since = connection.scalar(
                select(outage.c.since).where(outage.c.destination == destination, outage.c.node == node)
            )
            return now if since is None else min(since, now)

    def ended(self, destination: str, node: str) -> Outage | None:
        """It answers again, or needs no fallback any more; what its outage was, if there was one."""
        here = (outage.c.destination == destination, outage.c.node == node)
        with self._reading() as connection:
            row = connection.execute(select(outage).where(*here)).one_or_none()
        if row is None:
            return None
        with self._writing() as connection:
            connection.execute(delete(outage).where(*here))
        return Outage(*row)

    def outages(self) -> list[Outage]:
        """Every destination that does not answer, as the nodes see it."""
        with self._reading() as connection:
            rows = connection.execute(select(outage).order_by(outage.c.destination, outage.c.node))
            return [Outage(*row) for row in rows]

    def waiting(self, destination: str, node: str, *, queued_after: float) -> list[int]:
        """Ids of the deliveries that wait for the destination and the node could make, oldest first."""
        with self._reading() as connection:
            found = select(delivery.c.id).where(
                OWED,
                delivery.c.destination == destination,
                state_in(WAITING),
                delivery.c.queued_at >= queued_after,
                delivery.c.home.in_(self._homes(node)),
            )
            # Sorted here: an ORDER BY makes SQLite read the whole table for its order.
            return sorted(connection.scalars(found))

    def give(
        self, ids: Sequence[int], destination: str, *, to: str, node: str, instead: bool, reason: str, now: float
    ) -> int:
        """Queue what of these still waits for `destination` for `to`, in its place; returns how many were.

        `instead`: the deliveries themselves end, discarded for this `reason`; else they wait on, and say it.
        One transaction, so give it a few hundred at a time.
        """

        def give(connection: Connection) -> int:
            wanted = _waiting(connection, ids, destination, to)
            there = (delivery.c.instance_id.in_(wanted), delivery.c.destination == to)
            had = set(connection.scalars(select(delivery.c.instance_id).where(*there)))
            new = [(instance_id, to, one.priority) for instance_id, one in wanted.items() if instance_id not in had]
            if not new:
                return 0
            queue_anew(connection, new, now, fallback_of=destination)
            reach("jobs.mid-give")
            has = set(connection.scalars(select(delivery.c.instance_id).where(*there))) - had
            given = [wanted[instance_id].delivery_id for instance_id in sorted(has)]
            if instead:
                ended = move(Change.DIVERT, ready=False, due_at=None, settled_at=now, reason=reason)
                connection.execute(ended.where(delivery.c.id.in_(given)))
            else:
                said = case((delivery.c.reason == "", reason), else_=delivery.c.reason + "; " + reason)
                waits = update(delivery).where(delivery.c.id.in_(given), state_in(WAITING))
                connection.execute(waits.values(reason=said))
            count = {"destination": destination, "node": node, "since": now, "fallback": to, "given": len(given)}
            upsert(connection, outage, [count], replace=("fallback",), add=("given",))
            return len(given)

        return until_alone(self._writing, give)


class _Waits(NamedTuple):
    delivery_id: int
    priority: int


def _waiting(connection: Connection, ids: Sequence[int], destination: str, to: str) -> dict[int, _Waits]:
    """What of these waits for the destination and was not given, by instance, locked: nobody queues or claims it until
    this is committed.

    What a worker is just claiming goes to its destination after all, and is left out.
    """
    these = (delivery.c.id.in_(ids), delivery.c.destination == destination, state_in(WAITING))
    known = set(connection.scalars(select(delivery.c.instance_id).where(*these)))
    # Looked at again below; but in a long outage most were given long ago, and are not locked each time.
    had = (delivery.c.instance_id.in_(known), delivery.c.destination == to)
    known -= set(connection.scalars(select(delivery.c.instance_id).where(*had)))
    if not known:
        return {}
    # Instances first, as everybody who locks both.
    connection.execute(
        select(instance.c.id).where(instance.c.id.in_(known)).order_by(instance.c.id).with_for_update()
    ).all()
    rows = connection.execute(
        select(delivery.c.id, delivery.c.instance_id, delivery.c.priority)
        .where(*these, delivery.c.instance_id.in_(known))
        .order_by(delivery.c.id)
        .with_for_update(skip_locked=True)
    )
    return {row.instance_id: _Waits(row.id, row.priority) for row in rows}

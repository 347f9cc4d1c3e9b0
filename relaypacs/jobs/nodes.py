"""The nodes that share a job table: joining under a name of one's own, and leaving for good.

Called by `JobStore` for the relay process and the CLI. A name belongs to one state folder: two nodes under one name
would end each other's leases and mix up their segments, so the second is refused. While staging is on a node's own
disk, only the node that received an object delivers it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from sqlalchemy import Connection, delete, func, insert, select, update

from relaypacs.errors import JobsError
from relaypacs.jobs import dialect
from relaypacs.jobs.audit_rows import LOST_NODE
from relaypacs.jobs.audit_tables import audit_mark
from relaypacs.jobs.delivery import move
from relaypacs.jobs.destination_tables import TO_BE_ASKED, outage, verification
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.leases import end_leases
from relaypacs.jobs.schema import HOT, LIVE, OWED, PURGING, STAGED, checkpoint, delivery, instance, node
from relaypacs.jobs.states import PENDING_STATES, Change
from relaypacs.jobs.values import Drain, Joined, Left
from relaypacs.model import State

_Transaction = Callable[[], AbstractContextManager[Connection]]
LOST = "its bytes were on node {name}, which was drained; send it from the modality again"


def join(connection: Connection, name: str, identity: str, now: float) -> Joined:
    """The relay process of node `name`, whose state folder is `identity`, starts: end the leases of its earlier life.

    JobsError if the name is another's.
    """
    known = connection.scalar(select(node.c.identity).where(node.c.node == name).with_for_update())
    if known is None:
        connection.execute(insert(node), {"node": name, "identity": identity, "started_at": now})
        connection.execute(
            delete(audit_mark).where(audit_mark.c.mark == f"{LOST_NODE}{name}")
        )  # it sends its own again
    elif known != identity:
        raise JobsError(
            f"The job table knows a node {name!r} with another state folder; give this one another [node] name, "
            f"or, if that folder is gone for good, run `relaypacs node drain {name} --lost` first."
        )
    else:
        connection.execute(update(node).where(node.c.node == name).values(started_at=now, drained_at=None))
    others = connection.scalars(select(node.c.node).where(node.c.node != name).order_by(node.c.node)).all()
    seen = connection.scalar(select(node.c.timeline).where(node.c.node == name)) or ""
    timeline = dialect.timeline(connection)
    if not seen:
        _saw(connection, name, timeline)
    return Joined(
        leases_ended=end_leases(connection, name),
        others=tuple(others),
        timeline=timeline,
        failed_over=bool(seen and timeline and seen != timeline),
    )


def _saw(connection: Connection, name: str, timeline: str) -> None:
    connection.execute(update(node).where(node.c.node == name).values(timeline=timeline))


class Nodes:
    """What a node asks about itself, and what people ask of it; each method is one transaction."""

    def __init__(self, reading: _Transaction, writing: _Transaction) -> None:
        self._reading, self._writing = reading, writing

    def timeline(self) -> str:
        """Which history the database is in now (`Joined.timeline`)."""
        with self._reading() as connection:
            return dialect.timeline(connection)

    def recovered(self, name: str, timeline: str) -> None:
        """The node has made sure that this history lacks nothing it has."""
        with self._writing() as connection:
            _saw(connection, name, timeline)

    def drain(self, name: str, at: float | None) -> bool:
        """Ask a living node to take nothing more in (None: to go on as ever); False if no such node has joined.

        What it answered to an earlier request no longer counts.
        """
        with self._writing() as connection:
            asked = update(node).where(node.c.node == name)
            done = connection.execute(asked.values(draining_at=at, drain_answers=0, drained_at=None))
            return done.rowcount > 0

    def answer(self, name: str, asked_at: float, drained_at: float | None) -> None:
        """The node's answer to the request of `asked_at` (`draining_since`); nothing if there is another by now.

        `drained_at`: now, if it looked after it had read the request, and nothing more can come of it."""
        with self._writing() as connection:
            connection.execute(
                update(node)
                .where(node.c.node == name, node.c.draining_at == asked_at)
                .values(drain_answers=node.c.drain_answers + 1, drained_at=drained_at)
            )

    def answers(self, name: str) -> Drain | None:
        """What the node has said to being drained; None if it is not asked to, or not there."""
        with self._reading() as connection:
            row = connection.execute(
                select(node.c.drain_answers, node.c.drained_at).where(
                    node.c.node == name, node.c.draining_at.is_not(None)
                )
            ).one_or_none()
            return Drain(row.drain_answers, row.drained_at is not None) if row else None

    def left(self, name: str) -> Left | None:
        """What only that node can still do; None if no such node has joined."""
        with self._reading() as connection:
            if connection.scalar(select(node.c.node).where(node.c.node == name)) is None:
                return None
            counts: Counter[State] = Counter()
            for state, count in connection.execute(
                select(delivery.c.state, func.count()).where(OWED, delivery.c.home == name).group_by(delivery.c.state)
            ):
                counts[State(state)] = count
            segments = select(func.count()).select_from(checkpoint).where(checkpoint.c.node == name)
            return Left(
                pending=sum(counts[state] for state in PENDING_STATES),
                held=counts[State.HELD],
                failed=counts[State.FAILED],
                segments=connection.scalar(segments) or 0,
            )

    def draining_since(self, name: str) -> float | None:
        """Since when (seconds since the epoch) the node is asked to take nothing more in; None if it is not."""
        with self._reading() as connection:
            since: float | None = connection.scalar(select(node.c.draining_at).where(node.c.node == name))
            return since


def owes(connection: Connection, name: str) -> int | None:
    """How many live deliveries only node `name` can make; None if no such node has joined."""
    if connection.scalar(select(node.c.node).where(node.c.node == name)) is None:
        return None
    return len(connection.scalars(select(delivery.c.id).where(LIVE, delivery.c.home == name)).all())


def drain(connection: Connection, name: str, now: float, *, limit: int) -> int:
    """Take the next `limit` instances (at most) of a node that is gone for good; returns how many. 0: it is forgotten.

    Its live deliveries become dead letters that say why, its bytes count as gone.
    """
    mine = select(instance.c.id).where(instance.c.node == name).limit(limit).with_for_update()
    ids = next(filter(None, (connection.scalars(mine.where(some)).all() for some in (HOT, STAGED, PURGING))), ())
    if not ids:
        connection.execute(delete(checkpoint).where(checkpoint.c.node == name))
        connection.execute(delete(outage).where(outage.c.node == name))
        asked = update(verification).where(verification.c.node == name, TO_BE_ASKED)
        connection.execute(asked.values(due_at=None, reason=f"node {name}, which was to ask, was drained"))
        connection.execute(delete(node).where(node.c.node == name))
        upsert(connection, audit_mark, [{"mark": f"{LOST_NODE}{name}", "position": 0}], replace=("position",))
        return 0
    connection.execute(
        move(Change.ABANDON, ready=False, due_at=None, settled_at=now, reason=LOST.format(name=name)).where(
            delivery.c.instance_id.in_(ids)
        )
    )
    gone = update(instance).where(instance.c.id.in_(ids))
    connection.execute(gone.values(generation=None, staged_key=None, staged_at=None, purging_key=None))
    return len(ids)

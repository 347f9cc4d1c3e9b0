"""Where instances' bytes are, and which may go: the job table's side of staging, freeing and purging.

Called by `JobStore` for the sweep. Bytes may go when nothing is owed of them. Saying so and ceasing to count on them
is one transaction (`detach_unneeded`, `mark_purgeable`): an identical object received a moment later then brings its
own bytes instead of pointing at bytes about to go. A file that may be in staging is named by its row from before it is
put until after it is deleted: by `purging_key` while it doesn't count, by `staged_key` while it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, select, tuple_, update

from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.schema import (
    HOT,
    LIVE,
    NOT_OVER,
    PURGING,
    STAGED,
    UNROUTED,
    UNSTAGED,
    association,
    checkpoint,
    delivery,
    instance,
)
from relaypacs.jobs.values import ANYWHERE, Unstaged
from relaypacs.model import Routed

PURGE_LOOKS_AT = 5000
"""Staged instances one `purgeable` looks at; the next call goes on behind them."""


def has_delivery(which: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the instance has a delivery that fits.

    Not EXISTS, which PostgreSQL may answer by reading every such delivery there is.
    """
    found = select(delivery.c.id).where(delivery.c.instance_id == instance.c.id, which).limit(1)
    return found.scalar_subquery().is_not(None)


def owed() -> ColumnElement[bool]:
    """Somebody is still to get the instance, or a person has to decide about it."""
    return UNROUTED | has_delivery(NOT_OVER)


def _wanted(keep: bool) -> ColumnElement[bool]:
    """Owed, or to be kept for its own sake; what a rule drops is never kept."""
    return owed() | (instance.c.verdict != Routed.DROPPED) if keep else owed()


def to_stage(connection: Connection, node: str, *, received_before: float, keep: bool, limit: int) -> list[Unstaged]:
    """Instances whose only bytes are in the spool and still wanted, oldest first."""
    rows = connection.execute(
        select(*UNSTAGED_COLUMNS)
        .join_from(instance, association)
        # While a file is being deleted no other is put under its key.
        .where(instance.c.node == node, UNSTAGED, instance.c.purging_key.is_(None))
        .where(instance.c.received_at < received_before, _wanted(keep))
        .order_by(instance.c.received_at)
        .limit(limit)
    )
    return [Unstaged(*row) for row in rows]


UNSTAGED_COLUMNS: tuple[ColumnElement[Any], ...] = (
    instance.c.id,
    instance.c.generation,
    instance.c.file_offset,
    instance.c.file_length,
    instance.c.study_instance_uid,
    instance.c.sop_instance_uid,
    instance.c.digest,
    instance.c.study_date,
    instance.c.received_at,
    association.c.association_id,
    association.c.calling_ae,
    association.c.called_ae,
    association.c.peer,
)
"""Those of `Unstaged`, in its order."""


def will_stage(connection: Connection, keys: Sequence[tuple[int, str]], node: str) -> set[int]:
    """Note the keys (by instance id) that the node's files are about to be put under; returns the ids that may be.

    Until `staged` the file counts as one to be deleted: what a killed process leaves is found by the next purge.
    """
    ids = [instance_id for instance_id, _ in keys]
    able: set[int] = set()
    for some in chunks(ids):
        mine = (instance.c.node == node, UNSTAGED, instance.c.purging_key.is_(None))
        these = select(instance.c.id).where(instance.c.id.in_(some), *mine)
        able.update(connection.scalars(these.order_by(instance.c.id).with_for_update()))
    rows = [{"key": instance_id, "purging_key": name} for instance_id, name in keys if instance_id in able]
    if rows:
        connection.execute(update(instance).where(instance.c.id == bindparam("key")), rows)
    return able


def staged(connection: Connection, keys: Sequence[tuple[int, str]], now: float) -> None:
    """The instances' bytes are durable in staging under these keys, which `will_stage` has noted."""
    connection.execute(
        update(instance)
        .where(instance.c.id == bindparam("key"), instance.c.purging_key == bindparam("name"))
        .values(staged_key=bindparam("name"), staged_at=now, purging_key=None),
        [{"key": instance_id, "name": staged_key} for instance_id, staged_key in keys],
    )


def staged_for_all(
    connection: Connection, keys: Sequence[tuple[int, str]], now: float, *, copied: Sequence[Unstaged]
) -> None:
    """As `staged`, in staging that all nodes share, where nothing was noted: `copied` is what was read before the puts.

    Neither the instances nor their live deliveries are one node's own any more, and the spool's copy no longer counts.
    One whose bytes are not where they were copied from is left out: its file may have been purged since it was put.
    """
    origins = {one.instance_id: one for one in copied}
    rows = [
        {"key": instance_id, "name": name, "segment": origin.generation, "offset": origin.file_offset}
        for instance_id, name in keys
        if (origin := origins.get(instance_id)) is not None
    ]
    if not rows:
        return
    connection.execute(
        update(instance)
        .where(instance.c.id == bindparam("key"), UNSTAGED, instance.c.purging_key.is_(None))
        .where(instance.c.generation == bindparam("segment"), instance.c.file_offset == bindparam("offset"))
        .values(staged_key=bindparam("name"), staged_at=now, node=ANYWHERE, generation=None),
        rows,
    )
    for ids in chunks(instance_id for instance_id, _ in keys):
        there = select(instance.c.id).where(instance.c.id.in_(ids), instance.c.node == ANYWHERE)
        theirs = select(delivery.c.id).where(delivery.c.instance_id.in_(there), LIVE, delivery.c.home != ANYWHERE)
        found = connection.scalars(theirs.order_by(delivery.c.id).with_for_update()).all()
        for some in chunks(found):
            connection.execute(update(delivery).where(delivery.c.id.in_(some)).values(home=ANYWHERE))


def segment_needed(connection: Connection, node: str, generation: str, keep: bool) -> bool:
    """Whether some instance's only bytes are in the segment, and wanted."""
    here = (instance.c.node == node, instance.c.generation == generation)
    return connection.scalar(select(instance.c.id).where(*here, UNSTAGED, _wanted(keep)).limit(1)) is not None


def detach_unneeded(connection: Connection, node: str, generation: str, keep: bool) -> bool:
    """Unless the segment is needed, make no instance count on its bytes any more; whether that was done.

    The instances are locked before the question: nobody who has seen their bytes there adds a delivery after it.
    """
    here = (instance.c.node == node, instance.c.generation == generation, HOT)
    connection.execute(select(instance.c.id).where(*here).order_by(instance.c.id).with_for_update()).all()
    if segment_needed(connection, node, generation, keep):
        return False
    _detach(connection, node, generation)
    return True


def _detach(connection: Connection, node: str, generation: str) -> None:
    connection.execute(
        update(instance)
        .where(instance.c.node == node, instance.c.generation == generation, HOT)
        .values(generation=None)
    )


def forget_segment(connection: Connection, node: str, generation: str) -> None:
    """The segment's file is gone: so are its checkpoint and whatever still points at it."""
    _detach(connection, node, generation)
    connection.execute(delete(checkpoint).where(checkpoint.c.node == node, checkpoint.c.generation == generation))


def purging(connection: Connection, node: str, limit: int) -> list[tuple[int, str]]:
    """Instances whose staged file was to be deleted, by this or an earlier life."""
    rows = connection.execute(
        select(instance.c.id, instance.c.purging_key).where(instance.c.node == node, PURGING).limit(limit)
    )
    return [(row.id, row.purging_key) for row in rows]


def staged_and_settled(
    connection: Connection, node: str, *, settled_before: float, after: tuple[float, int]
) -> tuple[list[int], tuple[float, int] | None]:
    """Instances that have been staged and settled long enough, of the `PURGE_LOOKS_AT` behind `after`.

    Also where to go on: the last one's (staged_at, id), or None at the end.
    """
    recent = has_delivery(delivery.c.settled_at >= settled_before)
    rows = connection.execute(
        select(instance.c.id, instance.c.staged_at, (~owed() & ~recent).label("over"))
        .where(instance.c.node == node, STAGED, instance.c.staged_at < settled_before)
        .where(tuple_(instance.c.staged_at, instance.c.id) > after)
        .order_by(instance.c.staged_at, instance.c.id)
        .limit(PURGE_LOOKS_AT)
    ).all()
    end = (rows[-1].staged_at, rows[-1].id) if len(rows) == PURGE_LOOKS_AT else None
    return [row.id for row in rows if row.over], end


def mark_purgeable(connection: Connection, instance_ids: Sequence[int]) -> list[tuple[int, str]]:
    """Give up the bytes of those that are still not owed; returns them with the keys to delete.

    Those in the spool too, where there are any yet: they would be staged again.
    """
    marked: list[tuple[int, str]] = []
    for ids in chunks(instance_ids):
        these = select(instance.c.id).where(instance.c.id.in_(ids)).order_by(instance.c.id)
        connection.execute(these.with_for_update()).all()
        rows = connection.execute(
            update(instance)
            .where(instance.c.id.in_(ids), STAGED, ~owed())
            .values(purging_key=instance.c.staged_key, staged_key=None, staged_at=None, generation=None)
            .returning(instance.c.id, instance.c.purging_key)
        )
        marked += [(row.id, row.purging_key) for row in rows]
    return marked


def purged(connection: Connection, keys: Sequence[tuple[int, str]]) -> None:
    """The files under these keys, by instance id, are deleted."""
    connection.execute(
        update(instance)
        .where(instance.c.id == bindparam("key"), instance.c.purging_key == bindparam("name"))
        .values(purging_key=None),
        [{"key": instance_id, "name": name} for instance_id, name in keys],
    )

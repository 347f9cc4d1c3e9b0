"""Rows for staged objects that have none: after a failover lost them, or after the whole table was lost.

Called by `JobStore.restoring` for `intake.restoring`. What is restored counts as received in its association if the
table knows that (its end may have told of the object), else in one made up for it: the spool may still hold the object,
and it is then received in its own as ever. A row that is there keeps what it says, and gets its bytes back if it has
none or has them in the spool alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

from sqlalchemy import Connection, select, update
from sqlalchemy.engine import Row

from relaypacs.jobs.again import until_alone
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.intake import take_in
from relaypacs.jobs.schema import NOT_OVER, PURGING, STAGED, association, delivery, instance
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import ANYWHERE, Arrival, Restored

_Transaction = Callable[[], AbstractContextManager[Connection]]


class Restoring:
    """The table's side of reconciling and rebuilding; each method is one transaction."""

    def __init__(self, reading: _Transaction, writing: _Transaction, *, identifiers: bool, shared: bool) -> None:
        """`shared`: staging is, so that what is in it is no node's own."""
        self._reading, self._writing, self._identifiers, self._shared = reading, writing, identifiers, shared

    def is_empty(self) -> bool:
        """Whether the table knows no instance."""
        with self._reading() as connection:
            return connection.scalar(select(instance.c.id).limit(1)) is None

    def unknown(self, keys: Sequence[str]) -> list[str]:
        """Those of the staging keys that no row names."""
        known: set[str] = set()
        with self._reading() as connection:
            for some in chunks(keys):
                for column, which in ((instance.c.staged_key, STAGED), (instance.c.purging_key, PURGING)):
                    found = connection.scalars(select(column).where(column.in_(some), which))
                    known.update(key for key in found if key is not None)
        return [key for key in keys if key not in known]

    def restore(self, node: str, arrivals: Sequence[Arrival], now: float) -> Restored:
        """Give the staged objects (`staged_key` is set) rows; `node` becomes their home unless staging is shared."""
        home = ANYWHERE if self._shared else node
        kept = {"identifiers": self._identifiers, "shared": self._shared}
        # Another node, or a person, may restore the same object at the same moment.
        return until_alone(self._writing, lambda connection: _restore(connection, home, arrivals, now=now, **kept))


def _restore(
    connection: Connection, node: str, arrivals: Sequence[Arrival], *, now: float, identifiers: bool, shared: bool
) -> Restored:
    arrivals = _associated(connection, arrivals)
    known = _known(connection, arrivals)
    new: dict[tuple[str, str], Arrival] = {}
    adopted: set[tuple[str, str]] = set()
    surplus = 0
    for arrival in arrivals:
        name = (storable(arrival.record.meta.sop_instance_uid), arrival.digest)
        row = known.get(name)
        if row is None and name not in new:
            new[name] = arrival
        elif row is not None and name not in adopted and _lacks_a_copy(row, node):
            _adopt(connection, node, arrival, row, now)
            adopted.add(name)
        else:
            surplus += 1
    done = take_in(connection, node, list(new.values()), [], [], now=now, identifiers=identifiers, shared=shared)
    return Restored(
        instances=done.instances, found_again=len(adopted), surplus=surplus, queued=dict(done.queued), held=done.held
    )


def _associated(connection: Connection, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """`arrivals`, those of associations that the table does not know in one for each calling AE title."""
    found: set[str] = set()
    for ids in chunks(sorted({storable(one.record.meta.association_id) for one in arrivals})):
        found.update(
            connection.scalars(select(association.c.association_id).where(association.c.association_id.in_(ids)))
        )
    return [one if storable(one.record.meta.association_id) in found else _made_up(one) for one in arrivals]


def _made_up(arrival: Arrival) -> Arrival:
    meta = arrival.record.meta
    meta = meta._replace(association_id=f"restored {meta.calling_ae}".strip(), peer="")
    return replace(arrival, record=replace(arrival.record, meta=meta))


def _known(connection: Connection, arrivals: Sequence[Arrival]) -> dict[tuple[str, str], Row[tuple[object, ...]]]:
    digests = {arrival.digest for arrival in arrivals}
    known: dict[tuple[str, str], Row[tuple[object, ...]]] = {}
    for uids in chunks(sorted({storable(arrival.record.meta.sop_instance_uid) for arrival in arrivals})):
        rows = connection.execute(
            select(instance).where(instance.c.sop_instance_uid.in_(uids)).order_by(instance.c.id).with_for_update()
        )
        known.update(((row.sop_instance_uid, row.digest), row) for row in rows if row.digest in digests)
    return known


def _lacks_a_copy(row: Row[tuple[object, ...]], node: str) -> bool:
    """Whether the staged object is worth naming: no other is staged, and no other node has it on its own disk."""
    if row.staged_key is not None or row.purging_key is not None:
        return False
    return row.generation is None or node in (row.node, ANYWHERE)


def _adopt(connection: Connection, node: str, arrival: Arrival, row: Row[tuple[object, ...]], now: float) -> None:
    values: dict[str, object] = {"staged_key": arrival.staged_key, "staged_at": now}
    if row.generation is None or node == ANYWHERE:
        record = arrival.record
        values |= {
            "node": node,
            "generation": None,
            "file_offset": record.file_offset,
            "file_length": record.file_length,
            "dataset_offset": record.dataset_offset,
            "dataset_length": record.dataset_length,
            "dataset_crc32c": record.dataset_crc32c,
        }
        connection.execute(update(delivery).where(delivery.c.instance_id == row.id, NOT_OVER).values(home=node))
    connection.execute(update(instance).where(instance.c.id == row.id).values(values))

"""Where instances' bytes are, for those who read or wait for them: receipts, export and verification.

`JobStore.copies`. Each method is one short reading transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from relaypacs.jobs.bytes import UNSTAGED_COLUMNS, owed
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.schema import HOT, STAGED, association, instance
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import Unstaged
from relaypacs.model import Location, Routed


@dataclass(frozen=True, slots=True)
class Copy:
    """An instance with where its bytes are."""

    instance_id: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    staged_at: float | None
    location: Location


class Copies:
    """Questions about bytes; thread-safe."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading

    def only_in_spool(self, uids: Iterable[str]) -> dict[str, list[tuple[str | None, Unstaged]]]:
        """By SOP Instance UID as received: its instances that are in no staging yet and not dropped.

        Each with the node that may stage it: none while a file is being deleted under its key, and where the bytes of
        what is still owed are lost. A UID that no row has is left out; one whose instances are all in staging, or need
        none, has an empty list.
        """
        asked = {storable(uid): uid for uid in uids}
        found: dict[str, list[tuple[str | None, Unstaged]]] = {}
        without: dict[int, tuple[str, Unstaged]] = {}
        with self._reading() as connection:
            for some in chunks(asked):
                rows = connection.execute(
                    select(
                        instance.c.sop_instance_uid,
                        instance.c.node,
                        instance.c.verdict,
                        instance.c.staged_key,
                        instance.c.purging_key,
                        *UNSTAGED_COLUMNS,
                    )
                    .join_from(instance, association)
                    .where(instance.c.sop_instance_uid.in_(some))
                )
                for uid, node, verdict, staged_key, purging_key, *rest in rows:
                    there = found.setdefault(asked[uid], [])
                    unstaged = Unstaged(*rest)
                    hot: str | None = unstaged.generation
                    if staged_key is None and hot is None:
                        without[unstaged.instance_id] = asked[uid], unstaged
                    elif staged_key is None and verdict != Routed.DROPPED:
                        there.append((node if purging_key is None else None, unstaged))
            for ids in chunks(without):
                for lost in connection.scalars(select(instance.c.id).where(instance.c.id.in_(ids), owed())):
                    uid, unstaged = without[lost]
                    found[uid].append((None, unstaged))
        return found

    def of_study(self, study_instance_uid: str) -> list[Copy]:
        """Every instance of a study whose bytes are somewhere, in the order of reception."""
        here = instance.c.study_instance_uid == storable(study_instance_uid)
        with self._reading() as connection:
            rows = connection.execute(_copies().where(here, STAGED | HOT).order_by(instance.c.id)).all()
        return [_copy(row) for row in rows]

    def staged(self, *, since: float, after: int, limit: int) -> list[Copy]:
        """The next `limit` staged instances behind id `after`, of those staged at `since` (seconds) or later."""
        which: tuple[ColumnElement[bool], ...] = (STAGED, instance.c.staged_at >= since, instance.c.id > after)
        with self._reading() as connection:
            rows = connection.execute(_copies().where(*which).order_by(instance.c.id).limit(limit)).all()
        return [_copy(row) for row in rows]


_LOCATION = Location.__slots__


def _copies() -> Select[Any]:
    return select(
        instance.c.id,
        instance.c.sop_instance_uid,
        instance.c.transfer_syntax_uid,
        instance.c.digest,
        instance.c.staged_at,
        *(instance.c[name] for name in _LOCATION),
    )


def _copy(row: Any) -> Copy:
    instance_id, uid, syntax, digest, staged_at, *location = row
    return Copy(instance_id, uid, syntax, digest, staged_at, Location(*location))

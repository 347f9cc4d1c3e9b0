"""Instances that want a person's eye: no rule matched, other bytes under a known UID, a head that can't be read.

`JobStore.marks`, for metrics and `relaypacs marked`. Each question is one short reading transaction over the entries
of the marked alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import ColumnElement, Connection, func, select

from relaypacs.jobs.schema import CONFLICT, UNPARSED, UNROUTED, association, instance


class Mark(StrEnum):
    """Why somebody should look."""

    UNROUTED = "unrouted"
    """No rule matched: it goes nowhere."""
    CONFLICT = "conflict"
    """Received with other bytes under the same SOP Instance UID."""
    UNPARSED = "unparsed"
    """Its head can't be read, so rules see little of it."""


_WHICH: Final[dict[Mark, ColumnElement[bool]]] = {
    Mark.UNROUTED: UNROUTED,
    Mark.CONFLICT: CONFLICT,
    Mark.UNPARSED: UNPARSED,
}


@dataclass(frozen=True, slots=True)
class Marked:
    """What one caller sent of one study that bears a mark. Times in seconds since the epoch."""

    mark: Mark
    study_instance_uid: str
    calling_ae: str
    sop_instance_uid: str
    """One of them."""
    instances: int
    first_received_at: float
    last_received_at: float


class Marks:
    """Questions about marks; thread-safe."""

    def __init__(self, reading: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._reading = reading

    def counts(self) -> dict[Mark, int]:
        """How many instances bear each mark."""
        with self._reading() as connection:
            return {
                mark: connection.scalar(select(func.count()).select_from(instance).where(which)) or 0
                for mark, which in _WHICH.items()
            }

    def studies(self, mark: Mark, *, limit: int) -> list[Marked]:
        """By study and caller, the last received first, at most `limit`."""
        last = func.max(instance.c.received_at)
        columns = (instance.c.study_instance_uid, association.c.calling_ae)
        one = func.min(instance.c.sop_instance_uid)
        with self._reading() as connection:
            rows = connection.execute(
                select(*columns, one, func.count(), func.min(instance.c.received_at), last)
                .join_from(instance, association)
                .where(_WHICH[mark])
                .group_by(*columns)
                .order_by(last.desc(), *columns)
                .limit(limit)
            ).all()
        return [Marked(mark, *row) for row in rows]

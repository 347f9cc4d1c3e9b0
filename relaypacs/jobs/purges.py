"""Purging: which staged files go now, and that no other node deletes the same ones.

`JobStore.purges`, for the sweep. A file is put again under the key of one that was purged, so a deletion must not come
late: in staging that all nodes share, one node purges at a time, and asks before each file whether it still may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from relaypacs.jobs import bytes as instance_bytes
from relaypacs.jobs import dialect

_Transaction = Callable[[], AbstractContextManager[Connection]]


class Purges:
    """For one thread."""

    def __init__(self, reading: _Transaction, writing: _Transaction, *, shared: bool) -> None:
        """`shared`: staging is."""
        self._reading, self._writing, self._shared = reading, writing, shared
        # Where the next `purgeable` goes on, by node: (staged_at, instance id).
        self._after: dict[str, tuple[float, int]] = {}

    @contextmanager
    def alone(self) -> Iterator[Callable[[], bool]]:
        """For as long as the context lasts: a question whether this node may purge.

        No if another node does. Ask before `purgeable` and before each deletion: JobsError if the database, and with
        it the right, was lost in between.
        """
        if not self._shared:
            yield lambda: True
            return
        # A transaction that only holds the lock: what is read and written meanwhile is in others.
        with self._reading() as connection:
            yield lambda: dialect.lock_for_purging(connection)

    def purgeable(self, node: str, *, settled_before: float | None, limit: int) -> list[tuple[int, str]]:
        """`JobStore.purgeable`."""
        over: list[int] = []
        end: tuple[float, int] | None = None
        with self._reading() as connection:
            unfinished = instance_bytes.purging(connection, node, limit)
            if settled_before is not None:
                over, end = instance_bytes.staged_and_settled(
                    connection, node, settled_before=settled_before, after=self._after.get(node, (0.0, 0))
                )
        chosen = over[: limit - len(unfinished)]
        if len(chosen) == len(over):
            self._after[node] = end or (0.0, 0)
        if not chosen:
            return unfinished
        with self._writing() as connection:
            return unfinished + instance_bytes.mark_purgeable(connection, chosen)

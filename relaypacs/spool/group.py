"""Group commit: what several threads commit at the same time is made durable by one `fdatasync`.

Called by `append` for a record that is still in memory as a whole. A thread that finds a free place leads: it writes
its record, and with it all that had to wait for a place, and syncs once. So a lone writer waits for nobody, and a crowd
costs one sync for many. The records of a group are durable together or not at all; each thread gets its own answer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from relaypacs.errors import SpoolError
from relaypacs.model import Committed
from relaypacs.spool.format import Begun

LEADERS = 4
"""Groups written at once in a process, each to a segment of its own: so many threads commit without waiting for each
other, which would cost more than the syncs that are shared."""
MOST_RECORDS = 32
"""Records of one group at most."""


@dataclass(eq=False, slots=True)
class Whole:
    """A record that waits to be written: its header as begun, its payload's pieces, and what comes of it."""

    begun: Begun
    pieces: Sequence[bytes | memoryview]
    length: int
    crc32c: int
    at: Committed | None = None
    error: SpoolError | None = None
    gate: threading.Lock | None = None
    led: Sequence[Whole] = field(default=())
    """What this one's thread has to write, when it leads."""


class GroupCommit:
    """Gathers the records of the threads of a process."""

    def __init__(self, write: Callable[[Sequence[Whole]], None]) -> None:
        """`write` makes a group durable, and sets `at` or `error` of each; it raises only for a bug."""
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[Whole] = []
        self._places = deque([None] * LEADERS)
        """One for each group that may still start; taken and given without the lock, as a deque's ends are atomic. It
        is given before `_waiting` is looked at, and asked for after `_waiting` was added to: nobody is missed."""

    def commit(self, record: Whole) -> Committed:
        """Return when the record is durable. SpoolError, SpoolFull."""
        group: Sequence[Whole] = (record,)
        try:
            self._places.pop()
        except IndexError:
            group = self._wait(record)
        if group:
            try:
                self._write(group)
            finally:
                for led in group:
                    if led.gate is not None and led is not record:
                        led.gate.release()
                self._places.append(None)
                if self._waiting:
                    self._call()
        if record.at is None:
            raise record.error or SpoolError("the record's group could not be written")
        return record.at

    def _wait(self, record: Whole) -> Sequence[Whole]:
        """Return when somebody has written the record, or with the group that this thread has to write."""
        record.gate = threading.Lock()
        record.gate.acquire()
        with self._lock:
            self._waiting.append(record)
        self._call()  # a place may have become free before this one could be seen
        record.gate.acquire()
        return record.led

    def _call(self) -> None:
        """Let the first of those that wait lead, if there is a place."""
        with self._lock:
            if not self._waiting:
                return
            try:
                self._places.pop()
            except IndexError:
                return
            group, self._waiting = self._waiting[:MOST_RECORDS], self._waiting[MOST_RECORDS:]
        first = group[0]
        first.led = group
        if first.gate is not None:
            first.gate.release()

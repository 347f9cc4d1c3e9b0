"""Group commit: what several threads commit at the same time is made durable by one `fdatasync`.

Called by `append` for a record that is still in memory as a whole. A thread that finds a free place leads: it writes
its record, and with it all that had to wait for a place, and syncs once. So a lone writer waits for nobody, and a crowd
costs one sync for many. The records of a group are durable together or not at all; each thread gets its own answer.
"""

from __future__ import annotations

import threading
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
        self._leaders = 0

    def commit(self, record: Whole) -> Committed:
        """Return when the record is durable. SpoolError, SpoolFull."""
        with self._lock:
            if self._leaders < LEADERS:
                self._leaders += 1
                record.led = (record,)
            else:
                record.gate = threading.Lock()
                record.gate.acquire()
                self._waiting.append(record)
        if record.gate is not None:
            record.gate.acquire()
        if record.led:
            self._lead(record.led)
        if record.at is None:
            raise record.error or SpoolError("the record's group could not be written")
        return record.at

    def _lead(self, group: Sequence[Whole]) -> None:
        try:
            self._write(group)
        finally:
            with self._lock:
                following, self._waiting = self._waiting[:MOST_RECORDS], self._waiting[MOST_RECORDS:]
                if not following:
                    self._leaders -= 1
            if following:
                following[0].led = following
                _open(following[0])
            for record in group[1:]:
                _open(record)


def _open(record: Whole) -> None:
    if record.gate is not None:
        record.gate.release()

"""The database's clock: what leases and times of the next attempt are measured by.

Nodes that share a database may disagree about the time; whose lease has ended must not depend on who asks. Callers
pass their own `now`, and `Clock.shift` says by how much the database's differs: nothing on SQLite, whose clock is the
machine's. Asked of the database every few seconds, and carried on in between by a clock that nobody sets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection

from relaypacs.jobs.dialect import server_time

_ASK_SECONDS = 5.0
_SAME_SECONDS = 0.5
"""Clocks that differ by less are taken to agree: the question itself takes time."""


class Clock:
    """The shift between the callers' clock and the database's; thread-safe."""

    def __init__(self, now: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        """`now` is the callers' clock, seconds since the epoch; `steady` one that is never set."""
        self._now, self._steady = now, steady
        self._lock = threading.Lock()
        self._asked_at = -_ASK_SECONDS - 1.0
        self._server_ahead: float | None = None
        """Of `steady`, in seconds; None where the database has no clock of its own."""

    def shift(self, connection: Connection) -> float:
        """Seconds to add to the callers' time to get the database's."""
        with self._lock:
            at = self._steady()
            if not 0.0 <= at - self._asked_at < _ASK_SECONDS:
                told = server_time(connection)
                self._asked_at = self._steady()
                self._server_ahead = None if told is None else told - self._asked_at
            if self._server_ahead is None:
                return 0.0
            shift = self._steady() + self._server_ahead - self._now()
            return shift if abs(shift) >= _SAME_SECONDS else 0.0

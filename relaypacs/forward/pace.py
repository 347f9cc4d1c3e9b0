"""How fast a destination may be sent to: objects a second and megabits a second, shared by its workers.

`Batch` asks before it hands out an instance's bytes. A debt is paid before the next instance, so an average is kept
whatever an instance measures. Unlimited costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Thread-safe. 0 means no limit."""

    def __init__(
        self,
        *,
        objects_per_second: float = 0.0,
        megabits_per_second: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects_per_second = objects_per_second
        self._bytes_per_second = megabits_per_second * 1e6 / 8
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, length_bytes: int) -> float:
        """Reserve the sending of an instance; returns how many seconds it has to wait first."""
        if not (self._objects_per_second or self._bytes_per_second):
            return 0.0
        costs = 1 / self._objects_per_second if self._objects_per_second else 0.0
        if self._bytes_per_second:
            costs = max(costs, length_bytes / self._bytes_per_second)
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now)
            self._free_at = start + costs
            return start - now

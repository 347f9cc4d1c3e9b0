"""How fast a destination may be sent to: objects a second and megabits a second, shared by its workers.

`Batch` asks before an instance is begun. A debt is paid before the next instance, so an average is kept whatever an
instance measures. Unlimited costs nothing.
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

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self._objects_per_second or self._bytes_per_second)

    def take(self, length_bytes: int) -> float:
        """Reserve the sending of an instance; returns how many seconds it has to wait first."""
        if not self.limited:
            return 0.0
        with self._lock:
            now = self._clock()
            start = max(self._free_at, now)
            self._free_at = start + self._costs(length_bytes)
            return start - now

    def give_back(self, length_bytes: int) -> None:
        """An instance that was reserved was not sent."""
        if self.limited:
            with self._lock:
                self._free_at -= self._costs(length_bytes)

    def _costs(self, length_bytes: int) -> float:
        """The seconds that an instance takes at this pace."""
        costs = 1 / self._objects_per_second if self._objects_per_second else 0.0
        return max(costs, length_bytes / self._bytes_per_second) if self._bytes_per_second else costs

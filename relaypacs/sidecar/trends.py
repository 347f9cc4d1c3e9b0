"""How fast the disk fills and destinations are served, from what was seen at earlier scrapes: estimates for people.

`metrics` adds what it sees at each scrape and asks what follows. Nothing is sampled in between, so a node that nobody
asks sleeps. Without enough to go by there is no estimate. Pure but for its memory; safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping

FULL_WINDOW_SECONDS = 1800.0
DRAIN_WINDOW_SECONDS = 600.0
LEAST_SECONDS = 10.0
"""A rate over less than that says nothing."""
_MOST_SAMPLES = 240


class Trend:
    """A value as it was over the last `window_seconds`."""

    def __init__(self, window_seconds: float) -> None:
        self._window_seconds = window_seconds
        self._seen: deque[tuple[float, float]] = deque()

    def add(self, now: float, value: float) -> None:
        """`now`: seconds of a clock that is never set."""
        if len(self._seen) > 1 and now - self._seen[-2][0] < self._window_seconds / _MOST_SAMPLES:
            self._seen.pop()  # however often somebody asks, memory is bounded
        self._seen.append((now, value))
        while now - self._seen[0][0] > self._window_seconds:
            self._seen.popleft()

    def per_second(self) -> float | None:
        """By how much it grew; None where it was not seen for long enough."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < LEAST_SECONDS:
            return None
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - began)


class Trends:
    """What a sidecar remembers of its scrapes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = Trend(FULL_WINDOW_SECONDS)
        self._delivered: dict[str, Trend] = {}

    def hours_until_full(self, now: float, free_bytes: float, mark_bytes: float) -> float | None:
        """Until `free_bytes` are down to the mark below which objects are refused; None while they don't shrink."""
        with self._lock:
            self._free.add(now, free_bytes)
            rate = self._free.per_second()
        if free_bytes <= mark_bytes:
            return 0.0
        return (free_bytes - mark_bytes) / -rate / 3600 if rate is not None and rate < 0 else None

    def delivered(self, now: float, totals: Mapping[str, float]) -> None:
        """Deliveries made so far, by destination."""
        with self._lock:
            for name, total in totals.items():
                self._delivered.setdefault(name, Trend(DRAIN_WINDOW_SECONDS)).add(now, total)

    def drain_seconds(self, destination: str, waiting: float) -> float | None:
        """Until what waits for a destination is delivered; None where nothing is being delivered."""
        if not waiting:
            return 0.0
        with self._lock:
            trend = self._delivered.get(destination)
            rate = trend.per_second() if trend is not None else None
        return waiting / rate if rate is not None and rate > 0 else None

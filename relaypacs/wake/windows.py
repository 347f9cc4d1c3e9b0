"""Destinations' windows over all nodes: `LocalWindows` where each node counts for itself, `SharedWindows` with Redis.

A forward worker holds a place while it has an association open. First come, first served; who has held a place for a
turn while another node waits gives it up between two batches. Without Redis a node keeps to its part of the window,
at least one place: a destination is never cut off.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relaypacs.wake.protocol import Place
from relaypacs.wake.script import claim

if TYPE_CHECKING:
    from relaypacs.wake.keeper import Keeper

TURN_SECONDS = 10.0
_WAIT_MS = 3000
"""How long a process stands in the queue after it asked last."""


@dataclass(frozen=True, slots=True)
class Unbounded:
    """A place where nothing is counted."""

    counted: bool = False
    overdue: bool = False


class LocalWindows:
    """Windows of a node alone: the destination's own `associations` bound it already."""

    def acquire(self, destination: str, *, waits: bool = False) -> Place | None:
        """See `Windows`."""
        return Unbounded()

    def release(self, place: Place) -> None:
        """See `Windows`."""


class _Shared:
    """A place that counts."""

    def __init__(self, keeper: Keeper, slots: str, member: str, destination: str, turn_seconds: float) -> None:
        self.member, self.destination = member, destination
        self._keeper, self._slots = keeper, slots
        self._until = time.monotonic() + turn_seconds
        self.counted = True

    @property
    def overdue(self) -> bool:
        return self._keeper.crowd(self._slots) > 0 and time.monotonic() > self._until


class SharedWindows:
    """Windows over all nodes of a Redis. `most`: places by destination; one that is not named is not bounded."""

    def __init__(self, keeper: Keeper, most: Mapping[str, int], *, turn_seconds: float = TURN_SECONDS) -> None:
        self._turn_seconds = turn_seconds
        self._keeper = keeper
        self._most = most
        self._lock = threading.Lock()
        self._mine: Counter[str] = Counter()

    def bound(self, most: Mapping[str, int]) -> None:
        """Other bounds from now on; who holds a place keeps it."""
        self._most = most

    def acquire(self, destination: str, *, waits: bool = False) -> Place | None:
        """See `Windows`."""
        most = self._most.get(destination, 0)
        if not most:
            return Unbounded()
        keeper, slots = self._keeper, self._keeper.key("window", destination)
        member = keeper.member()
        op = claim(slots, f"{slots}:queue", most, member, keeper.who, waits=waits, wait_ms=_WAIT_MS)
        said = keeper.ask(op, slots=slots, member=member)
        with self._lock:
            if said is None and self._mine[destination] >= max(1, most // keeper.settings.nodes):
                return None
            if said == 0:
                return None
            self._mine[destination] += 1
        if said is None:
            keeper.hold(slots, member)
        return _Shared(keeper, slots, member, destination, self._turn_seconds)

    def release(self, place: Place) -> None:
        """See `Windows`."""
        if isinstance(place, _Shared):
            self._keeper.let_go(place.member)
            with self._lock:
                self._mine[place.destination] -= 1

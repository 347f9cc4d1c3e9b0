"""What intake leased to a destination's workers in the transaction that made it: sent without being claimed first.

One per destination, between intake's thread (`room`, `put`, `queued`) and the workers (`take`, `looked`, `exchange`,
`empty`). There is room only while the destination is up, within its hours and owed nothing older, so nobody is
overtaken; while it goes on the table is looked at every second. What can't be sent now is given back to the table.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.model import Claim

LOOK_SECONDS = 1.0
"""How often the table is looked at while claims are handed over: what is retried or sent again waits no longer."""


class Handover:
    """The claims that wait for a worker, by priority, then in the order in which they came."""

    def __init__(
        self,
        site: Site,
        settler: Settler,
        *,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most`: claims that may wait; 0 for a destination that takes everything from the table."""
        self._site, self._settler, self._most, self._clock = site, settler, most, clock
        self._lock = threading.Lock()
        self._waiting: deque[Claim] = deque()
        self._drained = False
        """Nothing older is in the table, as far as is known."""
        self._look_at: float | None = None
        self._closed = False
        self._working = 0
        self.puts = 0
        """How often claims were handed over."""
        self.told = 0
        """How often it was said that there is something in the table."""

    def room(self) -> int:
        """How many new deliveries the workers would begin before anything else."""
        with self._lock:
            return self._most - len(self._waiting) if self._drained and self._is_open() else 0

    @property
    def is_idle(self) -> bool:
        """Whether a new delivery would be begun at once: there is room, and no worker has anything."""
        with self._lock:
            busy = self._working or self._waiting
            return self._most > 0 and not busy and self._drained and self._is_open()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While a worker is at what it took."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1

    def put(self, claims: Sequence[Claim]) -> None:
        """Hand over what was leased, and is held by the settler."""
        with self._lock:
            accepted = self._is_open()
            if accepted:
                self._add(claims)
                self.puts += 1
                self._look_at = self._look_at or self._clock() + LOOK_SECONDS
        if not accepted:
            self._settler.give_back(claims)

    def queued(self) -> None:
        """There is something in the table: it comes before what is new."""
        with self._lock:
            self._drained, self.told = False, self.told + 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        with self._lock:
            return not self._waiting

    @property
    def must_look(self) -> bool:
        """Whether the table is to be looked at before anything is taken."""
        with self._lock:
            return not self._drained or (self._look_at is not None and self._clock() >= self._look_at)

    def take(self, limit: int) -> list[Claim]:
        """At most `limit` of what waits."""
        with self._lock:
            return self._take(limit)

    def looked(self, *, drained: bool, told: int) -> None:
        """A worker has looked at the table, when it was `told` so often; `drained`: nothing due is left in it."""
        with self._lock:
            self._drained, self._look_at = drained and told == self.told, None

    def exchange(self, claims: list[Claim], limit: int) -> list[Claim]:
        """The first `limit` of what waits and `claims`, which are from the table; the others wait."""
        with self._lock:
            if not self._waiting:
                return claims
            self._add(claims)
            return self._take(limit)

    def empty(self) -> None:
        """Give back what waits, unless the destination can be sent to; it is older than what is new by then."""
        with self._lock:
            if self._is_open():
                return
            left, self._waiting = self._waiting, deque()
            self._drained, self.told = False, self.told + 1
        self._settler.give_back(list(left))

    def close(self) -> None:
        """The workers have ended."""
        with self._lock:
            self._closed = True
        self.empty()

    def _add(self, claims: Sequence[Claim]) -> None:
        self._waiting.extend(claims)
        if any(one.priority for one in self._waiting):
            self._waiting = deque(sorted(self._waiting, key=lambda one: -one.priority))

    def _take(self, limit: int) -> list[Claim]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def _is_open(self) -> bool:
        return not self._closed and self._site.is_up and self._site.within_hours()


def by_destination(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """The claims of each destination, in their order."""
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.destination, []).append(claim)
    return found

"""Gives what waits for a destination that has not answered for long to its `fallback`.

`dispatch` runs one; its thread looks at the destinations once a second. Since when one is down is kept in the job
table, so that a restart begins nothing anew. While an outage lasts what arrives is given at once; what was under way
then is found by a whole look now and again. Each instance goes to a fallback once (`jobs.fallback`). While the job
table is down nothing is given, and it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from relaypacs import log
from relaypacs.config.model import Destination
from relaypacs.errors import JobsError
from relaypacs.forward.site import Site

_LOOK_SECONDS = 1.0
_WHOLE_SECONDS = 60.0
"""Between two looks at everything that waits, and not only at what came since the last look."""
_OVERLAP_SECONDS = 30.0
"""Rows are written with the time their transaction began."""
_AT_ONCE = 500

_given = Counter(
    "relaypacs_fallback_deliveries_total",
    "Deliveries given to another destination because their own did not answer for long.",
    ["destination", "fallback"],
)


class Ended(Protocol):
    """An outage that is over (`jobs.fallback.Outage`)."""

    @property
    def given(self) -> int: ...
    @property
    def fallback(self) -> str: ...


class Outage(Ended, Protocol):
    """One that lasts."""

    @property
    def destination(self) -> str: ...
    @property
    def node(self) -> str: ...


class Book(Protocol):
    """What is needed of the job table (`jobs.fallback.Fallbacks`)."""

    def began(self, destination: str, node: str, now: float) -> float:
        """Since when it does not answer."""

    def ended(self, destination: str, node: str) -> Ended | None:
        """It answers again."""

    def outages(self) -> Sequence[Outage]:
        """Those of all destinations and nodes."""

    def waiting(self, destination: str, node: str, *, queued_after: float) -> list[int]:
        """Ids of what waits for it."""

    def give(
        self, ids: Sequence[int], destination: str, *, to: str, node: str, instead: bool, reason: str, now: float
    ) -> int:
        """Queue them for `to`; how many were."""


@dataclass(slots=True)
class Place:
    """A destination and how it is. `since`: of its outage, seconds since the epoch; None while it answers."""

    destination: Destination
    site: Site
    since: float | None = None
    told: bool = False
    looked_at: float = 0.0
    whole_at: float = float("-inf")
    known: bool = False
    """Whether the job table has been told how it is, since this process began."""


class Fallback:
    """`start` and `stop` its thread; `watch` whenever the destinations change."""

    def __init__(self, book: Book, *, node: str, wake: Callable[[str], None]) -> None:
        """`wake(destination)`: there is something new for it."""
        self._book, self._node, self._wake = book, node, wake
        self._places: tuple[Place, ...] = ()
        self._changed = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fallback", daemon=True)

    def watch(self, places: Sequence[Place]) -> None:
        """These are the destinations now."""
        self._places = tuple(places)
        self._changed = True

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                if self._changed:
                    self._changed = False
                    self._forget_others()
                for place in self._places:
                    self._look(place, time.time())
            except JobsError:  # the settler says so
                self._changed = True

    def _forget_others(self) -> None:
        """End the outages of destinations that there are no more."""
        names = {place.destination.name for place in self._places}
        for one in self._book.outages():
            if one.node == self._node and one.destination not in names:
                self._book.ended(one.destination, self._node)

    def _look(self, place: Place, now: float) -> None:
        one = place.destination
        if not one.fallback or not place.site.is_down:
            # A restart says nothing: whether it answers is known when it was tried.
            if place.since is not None or (not place.known and (not one.fallback or place.site.is_up)):
                self._over(place)
            return
        if place.since is None:
            place.since = self._book.began(one.name, self._node, now)
            place.known = True
        if now - place.since < one.fallback_after_seconds or not place.site.within_hours():
            return
        whole = now - place.whole_at >= _WHOLE_SECONDS
        after = 0.0 if whole else place.looked_at - _OVERLAP_SECONDS
        ids = self._book.waiting(one.name, self._node, queued_after=after)
        self._give(place, ids)
        place.looked_at = now
        if whole:
            place.whole_at = now

    def _give(self, place: Place, ids: Sequence[int]) -> None:
        one, instead = place.destination, place.destination.fallback_then == "instead"
        reason = (
            f"given to {one.fallback} instead, since it did not answer" if instead else f"a copy went to {one.fallback}"
        )
        count = 0
        for start in range(0, len(ids), _AT_ONCE):
            if self._stopping.is_set() or not place.site.is_down:
                break
            given = self._book.give(
                ids[start : start + _AT_ONCE],
                one.name,
                to=one.fallback,
                node=self._node,
                instead=instead,
                reason=reason,
                now=time.time(),
            )
            if given:
                _given.labels(one.name, one.fallback).inc(given)
                self._wake(one.fallback)
            count += given
        if count and not place.told:
            place.told = True
            log.event(
                log.WARNING,
                "fallback-begun",
                f"It has not answered for {one.fallback_after_seconds:g} s: what waits for it goes to {one.fallback}.",
                destination=one.name,
                fallback=one.fallback,
                deliveries=count,
            )

    def _over(self, place: Place) -> None:
        outage = self._book.ended(place.destination.name, self._node)
        place.since, place.told, place.known, place.whole_at = None, False, True, float("-inf")
        if outage is not None and outage.given:
            log.event(
                log.INFO,
                "fallback-ended",
                f"It answers again; {outage.given} deliveries went to {outage.fallback} meanwhile.",
                destination=place.destination.name,
                fallback=outage.fallback,
                deliveries=outage.given,
            )

"""The forward workers: per destination a window of threads, each claiming a batch, delivering it, settling it.

`node` starts one Forwarder in the relay process. Destinations share nothing but the settler: a dead or slow one keeps
its own threads only. On stop the workers finish the instance in flight and give the rest back.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Protocol

from prometheus_client import Gauge

from relaypacs.config.model import Destination
from relaypacs.forward.crew import Crew
from relaypacs.forward.fallback import Book as FallbackBook
from relaypacs.forward.fallback import Fallback
from relaypacs.forward.handover import Handover, by_destination
from relaypacs.forward.memory import Pair
from relaypacs.forward.pace import Pace
from relaypacs.forward.refusals import Refusals
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.forward.spoken import Spoken
from relaypacs.forward.studies import Studies
from relaypacs.forward.verify import Verify
from relaypacs.forward.worker import Jobs, Worker
from relaypacs.jobs.verification import Verifications
from relaypacs.model import Claim
from relaypacs.policy.hours import closed_for, parse_hours
from relaypacs.wake.protocol import Wake, Windows

CHANGE_SECONDS = 5.0
"""How long a changed destination's workers may take to end before its new ones start."""
_SETTLE_SHARE = 0.3
"""The share of the time for stopping that is kept for settling."""

_up = Gauge(
    "relaypacs_destination_up",
    "Whether the destination answered when it was last tried.",
    ["destination"],
    multiprocess_mode="mostrecent",
)
_window = Gauge(
    "relaypacs_destination_window",
    "Associations or requests at once that the destination is found to take; at most `associations`.",
    ["destination"],
    multiprocess_mode="mostrecent",
)
_breaker = Gauge(
    "relaypacs_destination_breaker",
    "The destination's circuit breaker: 0 closed (all is well), 1 half-open (one instance is tried), 2 open (paused).",
    ["destination"],
    multiprocess_mode="mostrecent",
)
_connectivity = Gauge(
    "pacs_connectivity",
    "Whether every destination of this kind answered when it was last tried.",
    ["pacs_type"],
    multiprocess_mode="mostrecent",
)


class Books(Protocol):
    """What the job table knows of destinations (`jobs.destinations.Destinations`)."""

    @property
    def fallbacks(self) -> FallbackBook: ...
    @property
    def verifications(self) -> Verifications: ...


class JobTable(Jobs, Protocol):
    """What all of forwarding needs of the job table (`jobs.store.JobStore`)."""

    @property
    def destinations(self) -> Books: ...


class Forwarder:
    """All workers of a node. `calling_ae` is presented to dimse destinations that configure none."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        *,
        jobs: JobTable,
        source: ByteSource,
        wake: Wake,
        windows: Windows,
        node: str,
        lease_seconds: float,
        calling_ae: str = "RELAYPACS",
        study_quiet_seconds: float = 60.0,
        refusals_file: Path | None = None,
    ) -> None:
        """ConfigError if a destination's credentials are not there. `refusals_file`: where reception finds what they
        refuse."""
        self._kinds = {one.name: str(one.kind) for one in destinations}
        """By name, also of those that went: what they had in flight is still to be counted."""
        self._studies = Studies(lambda study: jobs.ledger(study=study), quiet_seconds=study_quiet_seconds)
        self._verify = Verify(jobs.destinations.verifications, node=node, wake=wake.notify)
        self._settler = Settler(
            jobs,
            lease_seconds=lease_seconds,
            kinds=self._kinds,
            wake=wake.notify,
            before=self._verify.before,
            ended=self._studies.ended,
        )
        self._connectivity = _Connectivity(self._kinds)
        self._jobs, self._source, self._wake, self._windows = jobs, source, wake, windows
        self._node, self._lease_seconds = node, lease_seconds
        self._lock = threading.Lock()
        self._leaving: Set[str] = set()
        self._refusals = Refusals(refusals_file)
        self._fallback = Fallback(jobs.destinations.fallbacks, node=node, wake=wake.notify)
        self._crews = {one.name: self._crew(one, calling_ae) for one in destinations}
        self._crews_changed()

    def _crew(self, one: Destination, calling_ae: str) -> Crew:
        stopping = threading.Event()
        site = _site(one, self._connectivity.hears(one.name))
        memory = self._refusals.memory(one, calling_ae)
        pace = Pace(objects_per_second=one.max_objects_per_second, megabits_per_second=one.max_megabits_per_second)
        spoken = Spoken(one, calling_ae, memory)
        # What waits for its pace waits in the table.
        handover = Handover(site, self._settler, most=0 if pace.limited else 2 * one.batch_instances)
        workers = [
            Worker(
                one,
                number=number,
                sender=sender,
                callers=callers,
                probe=spoken.probe,
                pace=pace,
                site=site,
                settler=self._settler,
                jobs=self._jobs,
                source=self._source,
                wake=self._wake,
                windows=self._windows,
                node=self._node,
                lease_seconds=self._lease_seconds,
                stopping=stopping,
                handover=handover,
            )
            for number in range(one.associations)
            for sender, callers in [spoken.sender()]
        ]
        return Crew(
            one,
            calling_ae,
            site=site,
            memory=memory,
            workers=workers,
            ask=spoken.ask,
            stopping=stopping,
            handover=handover,
            wake=self._wake.notify,
        )

    def prepare(self, destinations: Sequence[Destination], calling_ae: str) -> Callable[[], None]:
        """Make what these destinations need that is not there; ConfigError if credentials are not. What is returned
        takes them over: crews of those that changed give back what they have not begun, then new ones start. Those
        that are the same go on undisturbed; those that are gone go on until `drop`. One thread calls this and that."""
        wanted = {one.name: one for one in destinations}
        same = {name for name, crew in self._crews.items() if name in wanted and crew.is_for(wanted[name], calling_ae)}
        made = {name: self._crew(one, calling_ae) for name, one in wanted.items() if name not in same}

        def take_over() -> None:
            with self._lock:
                self._leaving = self._crews.keys() - wanted.keys()
                over = [self._crews[name] for name in made if name in self._crews]
                self._end(over)
                self._kinds.update({name: str(wanted[name].kind) for name in made})
                for crew in made.values():
                    crew.start()
                self._crews = {**self._crews, **made}
                self._crews_changed()

        return take_over

    def drop(self, name: str) -> bool:
        """Stop the workers of a destination that is gone; False if it is wanted again."""
        with self._lock:
            if name not in self._leaving:
                return False
            self._end([self._crews[name]])
            self._crews = {other: crew for other, crew in self._crews.items() if other != name}
            self._leaving -= {name}
            self._crews_changed()
            self._connectivity.forget(name)
        return True

    def _end(self, crews: Sequence[Crew]) -> None:
        for crew in crews:
            crew.order_stop()
        deadline = time.monotonic() + CHANGE_SECONDS
        for crew in crews:
            crew.join(deadline)

    def _crews_changed(self) -> None:
        self._refusals.watch([crew.watched for crew in self._crews.values()])
        self._fallback.watch([crew.place for crew in self._crews.values()])
        self._verify.watch([crew.asked for crew in self._crews.values()])

    def room(self) -> dict[str, int]:
        """How many new deliveries the workers of each destination would begin before anything else."""
        rooms = {name: crew.handover.room() for name, crew in self._crews.items() if name not in self._leaving}
        return {name: room for name, room in rooms.items() if room > 0}

    def idle(self) -> bool:
        """Whether the workers of some destination have nothing to do, and would begin at once."""
        return any(crew.handover.is_idle for name, crew in self._crews.items() if name not in self._leaving)

    def hand_over(self, claims: Sequence[Claim], since: tuple[float, float]) -> None:
        """These new deliveries were leased to the workers; `since` as for `Settler.hold`."""
        self._settler.hold(claims, since=since)
        for name, some in by_destination(claims).items():
            crew = self._crews.get(name)
            give = self._settler.give_back if crew is None else crew.handover.put
            give(some)
            self._wake.notify(name)

    def queued(self, name: str) -> None:
        """There are new deliveries in the job table."""
        if crew := self._crews.get(name):
            crew.handover.queued()
        self._wake.notify(name)

    def destinations(self) -> tuple[str, ...]:
        """Names of those there are workers for, those that are leaving too."""
        return tuple(self._crews)

    def refused(self) -> dict[str, frozenset[Pair]]:
        """By destination, the (SOP class, transfer syntax) pairs that it was seen to refuse."""
        return {name: crew.memory.refused() for name, crew in self._crews.items()}

    def start(self) -> None:
        """Start every worker."""
        self._settler.start()
        self._studies.start()
        self._refusals.start()
        self._fallback.start()
        self._verify.start()
        for crew in self._crews.values():
            crew.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Finish what is in flight, give back the rest, release associations; False if not all of it in time.

        A worker that is still sending then keeps nothing: its claims are given back and may be delivered twice.
        """
        deadline = time.monotonic() + timeout_seconds * (1 - _SETTLE_SHARE)
        self._fallback.stop()
        self._verify.stop()
        crews = list(self._crews.values())
        for crew in crews:
            crew.order_stop()
        ended = [crew.join(deadline) for crew in crews]
        settled = self._settler.close(timeout_seconds * _SETTLE_SHARE)
        self._studies.stop()
        self._refusals.stop()
        return settled and all(ended)


class _Connectivity:
    """The gauges: a kind of PACS is connected while each of its destinations that was tried is."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self._ups: dict[str, bool] = {}
        self._lock = threading.Lock()

    def hears(self, name: str) -> Callable[[bool], None]:
        """What the destination's site calls when it goes up or down."""

        def changed(up: bool) -> None:
            kind = self._kinds.get(name, "")
            with self._lock:
                self._ups[name] = up
                _up.labels(name).set(up)
                same_kind = [one for other, one in self._ups.items() if self._kinds.get(other) == kind]
                _connectivity.labels(kind).set(all(same_kind))

        return changed

    def forget(self, name: str) -> None:
        """The destination is gone; what its gauges say from now on is nothing (NaN), which raises no alarm."""
        with self._lock:
            self._ups.pop(name, None)
        for gauge in (_up, _window, _breaker):
            gauge.labels(name).set(math.nan)


def _site(destination: Destination, on_change: Callable[[bool], None]) -> Site:
    _window.labels(destination.name).set(1)
    _breaker.labels(destination.name).set(0)
    hours = parse_hours(destination.send_between) if destination.send_between else None

    def closed(now: float) -> float:
        if hours is None:
            return 0.0
        at = time.localtime(now)
        return closed_for(hours, at.tm_hour * 3600 + at.tm_min * 60 + at.tm_sec)

    return Site(
        destination.name,
        on_change,
        most=destination.associations,
        closed_for=closed,
        on_window=_window.labels(destination.name).set,
        on_breaker=_breaker.labels(destination.name).set,
    )

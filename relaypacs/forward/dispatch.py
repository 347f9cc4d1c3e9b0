"""The forward workers: per destination a window of threads, each claiming a batch, delivering it, settling it.

`node` starts one Forwarder in the relay process. Destinations share nothing but the settler: a dead or slow one keeps
its own threads only. On stop the workers finish the instance in flight and give the rest back.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import Gauge

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.forward.authorization import Authorization
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.echo import echo
from relaypacs.forward.memory import Memory, Pair
from relaypacs.forward.pace import Pace
from relaypacs.forward.sender import Sender, Trouble
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.forward.stow import StowSender
from relaypacs.forward.studies import Studies
from relaypacs.forward.worker import Jobs, Worker
from relaypacs.policy.hours import closed_for, parse_hours
from relaypacs.wake.protocol import Wake, Windows

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


class Forwarder:
    """All workers of a node. `calling_ae` is presented to dimse destinations that configure none."""

    def __init__(
        self,
        destinations: Sequence[Destination],
        *,
        jobs: Jobs,
        source: ByteSource,
        wake: Wake,
        windows: Windows,
        node: str,
        lease_seconds: float,
        calling_ae: str = "RELAYPACS",
        study_quiet_seconds: float = 60.0,
    ) -> None:
        """ConfigError if a destination's credentials are not there."""
        self._wake = wake
        self._stopping = threading.Event()
        kinds = {one.name: str(one.kind) for one in destinations}
        self._studies = Studies(lambda study: jobs.ledger(study=study), quiet_seconds=study_quiet_seconds)
        self._settler = Settler(
            jobs, lease_seconds=lease_seconds, kinds=kinds, wake=wake.notify, ended=self._studies.ended
        )
        connectivity = _Connectivity(kinds)
        self._sites = {one.name: _site(one, connectivity.hears(one.name)) for one in destinations}
        self._memories = {one.name: Memory() for one in destinations}
        paces = {
            one.name: Pace(
                objects_per_second=one.max_objects_per_second, megabits_per_second=one.max_megabits_per_second
            )
            for one in destinations
        }
        workers = [
            Worker(
                one,
                number=number,
                sender=sender,
                callers=callers,
                probe=partial(_probe, one, calling_ae),
                pace=paces[one.name],
                site=self._sites[one.name],
                settler=self._settler,
                jobs=jobs,
                source=source,
                wake=wake,
                windows=windows,
                node=node,
                lease_seconds=lease_seconds,
                stopping=self._stopping,
            )
            for one in destinations
            for number in range(one.associations)
            for sender, callers in [_sender(one, calling_ae, self._memories[one.name])]
        ]
        self._threads = [
            threading.Thread(target=worker.run, name=f"forward-{worker.name}", daemon=True) for worker in workers
        ]

    def refused(self) -> dict[str, frozenset[Pair]]:
        """By destination, the (SOP class, transfer syntax) pairs that it was seen to refuse since the start."""
        return {name: memory.refused() for name, memory in self._memories.items()}

    def start(self) -> None:
        """Start every worker."""
        self._settler.start()
        self._studies.start()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Finish what is in flight, give back the rest, release associations; False if not all of it in time.

        A worker that is still sending then keeps nothing: its claims are given back and may be delivered twice.
        """
        deadline = time.monotonic() + timeout_seconds * (1 - _SETTLE_SHARE)
        self._stopping.set()
        for name, site in self._sites.items():
            site.stop()
            self._wake.notify(name)
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        settled = self._settler.close(timeout_seconds * _SETTLE_SHARE)
        self._studies.stop()
        return settled and not any(thread.is_alive() for thread in self._threads)


class _Connectivity:
    """The gauges: a kind of PACS is connected while each of its destinations that was tried is."""

    def __init__(self, kinds: dict[str, str]) -> None:
        self._kinds = kinds
        self._ups: dict[str, bool] = {}
        self._lock = threading.Lock()

    def hears(self, name: str) -> Callable[[bool], None]:
        """What the destination's site calls when it goes up or down."""

        def changed(up: bool) -> None:
            kind = self._kinds[name]
            with self._lock:
                self._ups[name] = up
                _up.labels(name).set(up)
                same_kind = [one for other, one in self._ups.items() if self._kinds[other] == kind]
                _connectivity.labels(kind).set(all(same_kind))

        return changed


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


def _probe(destination: Destination, calling_ae: str) -> Trouble | None:
    """Whether the destination answers: C-ECHO, or a small search. One that has no Verification answers all the same."""
    found = echo(destination, calling_ae=calling_ae)
    return None if found.answers else Trouble(found.sentence)


def _sender(destination: Destination, calling_ae: str, memory: Memory) -> tuple[Sender, dict[str, str] | None]:
    """A worker's sender, and what the worker fills for it if it presents the calling AE title of who sent."""
    if destination.kind == "dicomweb":
        authorization = Authorization(destination, os.environ)
        return StowSender(destination, authorization.shown, authorization.renew), None
    callers: dict[str, str] | None = {} if destination.calling_ae == ORIGINAL else None
    return CStoreSender(destination, calling_ae, memory, callers), callers

"""The forward workers: per destination a window of threads, each claiming a batch, delivering it, settling it.

`node` starts one Forwarder in the relay process. Destinations share nothing but the settler: a dead or slow one keeps
its own threads only. On stop the workers finish the instance in flight and give the rest back.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import Gauge

from relaypacs.config.model import Destination
from relaypacs.config.secrets import credentials
from relaypacs.forward.cstore import CStoreSender
from relaypacs.forward.sender import Sender
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.forward.stow import StowSender
from relaypacs.forward.worker import Jobs, Worker
from relaypacs.wake.protocol import Wake, Windows

_SETTLE_SHARE = 0.3
"""The share of the time for stopping that is kept for settling."""

_up = Gauge(
    "relaypacs_destination_up",
    "Whether the destination answered when it was last tried.",
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
    ) -> None:
        """ConfigError if a destination's credentials are not there."""
        self._wake = wake
        self._stopping = threading.Event()
        kinds = {one.name: str(one.kind) for one in destinations}
        self._settler = Settler(jobs, lease_seconds=lease_seconds, kinds=kinds, wake=wake.notify)
        connectivity = _Connectivity(kinds)
        self._sites = {one.name: Site(one.name, connectivity.hears(one.name)) for one in destinations}
        workers = [
            Worker(
                one,
                sender=_sender(one, calling_ae),
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
            for _ in range(one.associations)
        ]
        self._threads = [
            threading.Thread(target=worker.run, name=f"forward-{worker.name}", daemon=True) for worker in workers
        ]

    def start(self) -> None:
        """Start every worker."""
        self._settler.start()
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


def _sender(destination: Destination, calling_ae: str) -> Sender:
    if destination.kind == "dicomweb":
        credentials(destination, os.environ)  # what is missing is said at start, not at the first request
        return StowSender(destination, lambda: credentials(destination, os.environ))
    return CStoreSender(destination, calling_ae)

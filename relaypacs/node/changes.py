"""What the relay process makes of another configuration: rules first, then the destinations they name.

A destination that is owed something can't go: that is asked before anything changes, and the whole configuration is
refused then. Its workers go some seconds later, when nothing is routed there any longer and nothing is owed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

from relaypacs import log
from relaypacs.config import Config
from relaypacs.errors import ConfigError, JobsError
from relaypacs.forward.dispatch import Forwarder
from relaypacs.jobs.store import JobStore
from relaypacs.node.arrivals import Arrivals, arrival_reader
from relaypacs.node.sharing import rebound
from relaypacs.wake.protocol import Windows

LET_GO_SECONDS = 5.0
"""How often it is asked whether a destination that is gone is still owed something."""


class Changes:
    """`prepare` is called by one thread."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        arrivals: Arrivals,
        forwarder: Forwarder,
        windows: Windows,
        taken: Callable[[Config], None],
    ) -> None:
        """`taken` is told what is in force."""
        self._jobs, self._arrivals, self._forwarder, self._windows = jobs, arrivals, forwarder, windows
        self._taken = taken

    def prepare(self, new: Config) -> Callable[[], None]:
        """Make what `new` needs; what is returned puts it in force. ConfigError if it can't be."""
        gone = set(self._forwarder.destinations()) - {one.name for one in new.destination}
        if gone:
            try:
                owed = self._owed(gone)
            except JobsError as problem:
                names = ", ".join(sorted(gone))
                raise ConfigError([f"whether {names} may go can't be asked now: {problem}"]) from None
            if owed:
                raise ConfigError(
                    [
                        f"destination {name} can't go: {count} deliveries are owed; let them end (`relaypacs queue`) "
                        f"or give them up with `relaypacs discard --to {name}`"
                        for name, count in owed.items()
                    ]
                )
        reader = arrival_reader(new)
        crews = self._forwarder.prepare(new.destination, new.receive.ae_titles[0])

        def take() -> None:
            rebound(self._windows, new)
            self._arrivals.take(reader)
            crews()
            self._taken(new)
            if gone:
                threading.Thread(target=self._let_go, args=(gone,), name="destinations-gone", daemon=True).start()

        return take

    def _let_go(self, gone: set[str]) -> None:
        """What intake had read under the old rules is rows within moments, unless the job table is down."""
        left = set(gone)
        while left:
            time.sleep(LET_GO_SECONDS)
            try:
                owed = self._owed(left)
            except JobsError:
                continue
            for name in left - owed.keys():
                if self._forwarder.drop(name):
                    log.event(log.INFO, "destination-gone", "Its workers have ended.", destination=name)
            left &= owed.keys()

    def _owed(self, names: Collection[str]) -> dict[str, int]:
        """How many deliveries are not over (dead letters count) of each that has any."""
        rows = self._jobs.queue(time.time())
        counts = {row.destination: sum(row.counts.values()) for row in rows if row.destination in names}
        return {name: count for name, count in sorted(counts.items()) if count}

"""The workers of one destination: started together, and stopped together when the destination changes or goes.

`dispatch` makes one per destination. A crew that was stopped finishes the instance in flight and gives the rest back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from relaypacs.config.model import Destination
from relaypacs.forward.fallback import Place
from relaypacs.forward.handover import Handover
from relaypacs.forward.listed import Ask
from relaypacs.forward.memory import Memory
from relaypacs.forward.refusals import Watched
from relaypacs.forward.site import Site
from relaypacs.forward.verify import Asked
from relaypacs.forward.worker import Worker


class Crew:
    """One destination's site, memory and worker threads."""

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        *,
        site: Site,
        memory: Memory,
        workers: Sequence[Worker],
        ask: Ask,
        stopping: threading.Event,
        handover: Handover,
        wake: Callable[[str], None],
    ) -> None:
        """`stopping` is that of `workers`; `wake(destination)` ends their sleep. `calling_ae`: what is presented where
        the destination configures nothing. `ask`: what it lists of a study."""
        self.destination, self.calling_ae, self.memory = destination, calling_ae, memory
        self.watched = Watched(destination, calling_ae, memory, site.within_hours)
        self.place = Place(destination, site)
        self.asked = Asked(destination, site, ask)
        self.handover = handover
        self._site, self._stopping, self._wake = site, stopping, wake
        self._threads = [
            threading.Thread(target=worker.run, name=f"forward-{worker.name}", daemon=True) for worker in workers
        ]

    def is_for(self, destination: Destination, calling_ae: str) -> bool:
        """Whether a crew for this destination would do the same."""
        same_title = bool(destination.calling_ae) or destination.kind != "dimse" or self.calling_ae == calling_ae
        return self.destination == destination and same_title

    def start(self) -> None:
        """Start every worker."""
        for thread in self._threads:
            thread.start()

    def order_stop(self) -> None:
        """Let every worker end; waits for nothing."""
        self._stopping.set()
        self._site.stop()
        self._wake(self.destination.name)

    def join(self, deadline: float) -> bool:
        """Wait for the workers until then (`time.monotonic`); whether all have ended."""
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        self.handover.close()
        return not any(thread.is_alive() for thread in self._threads)

"""The associations that a receive process serves, each in a thread of its own; started by `receive.edge`.

At the end they are waited for, and those that outlast the grace period are aborted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import Gauge

from relaypacs.receive.serving import Serving

OPEN = Gauge("relaypacs_associations_open", "Associations open now.", multiprocess_mode="livesum")
_FORCE_SECONDS = 2.0
"""What an association gets to end after it was aborted."""


class Running:
    """The running associations; thread-safe."""

    def __init__(self) -> None:
        self._threads: dict[Serving, threading.Thread] = {}
        self._lock = threading.Lock()

    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._threads)

    def start(self, serving: Serving, ended: Callable[[], None]) -> None:
        """Serve it in a new thread, which calls `ended` at the end. RuntimeError if there can't be another thread."""
        thread = threading.Thread(target=self._run, args=(serving, ended), name="association", daemon=True)
        with self._lock:
            self._threads[serving] = thread
        try:
            thread.start()
        except RuntimeError:
            self._forget(serving)
            raise

    def _run(self, serving: Serving, ended: Callable[[], None]) -> None:
        OPEN.inc()
        try:
            serving.run()
        finally:
            OPEN.dec()
            ended()
            self._forget(serving)

    def _forget(self, serving: Serving) -> None:
        with self._lock:
            del self._threads[serving]

    def drain(self, grace_seconds: float) -> bool:
        """Wait for all to end; abort those that have not after the grace. Whether all ended."""
        if self._join(grace_seconds):
            return True
        with self._lock:
            left = list(self._threads)
        for serving in left:
            serving.force_end()
        return self._join(_FORCE_SECONDS)

    def _join(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                threads = list(self._threads.values())
            if not threads:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            threads[0].join(left)

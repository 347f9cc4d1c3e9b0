"""Wake-ups within the relay process: intake tells the forward workers of a destination that there is work.

A worker claims until nothing is left, then calls `wait`. A notification between that claim and the `wait` is not lost,
and each of a destination's workers sees it. Wake-ups are never truth: a worker also looks when its time is up.
"""

from __future__ import annotations

import threading


class _Bell:
    """One destination's condition and how often it has been rung."""

    def __init__(self) -> None:
        self.rung = threading.Condition()
        self.count = 0


class LocalWake:
    """Per-destination wake-ups, for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bells: dict[str, _Bell] = {}
        self._seen = threading.local()

    def notify(self, destination: str) -> None:
        """Wake every worker of `destination`, also those that are busy now and wait only later."""
        bell = self._bell(destination)
        with bell.rung:
            bell.count += 1
            bell.rung.notify_all()

    def wait(self, destination: str, timeout_seconds: float) -> bool:
        """Wait until `destination` is notified, up to `timeout_seconds`.

        True, at once, if it was notified since this thread's previous `wait` for it; False when the time was up.
        """
        bell = self._bell(destination)
        seen: dict[str, int] = self._seen.__dict__
        with bell.rung:
            notified = bell.rung.wait_for(lambda: bell.count != seen.get(destination, 0), timeout_seconds)
            seen[destination] = bell.count
            return notified

    def destinations(self) -> list[str]:
        """Every destination that was waited for or notified."""
        with self._lock:
            return list(self._bells)

    def close(self) -> None:
        """Nothing to do: there is nobody else."""

    def _bell(self, destination: str) -> _Bell:
        with self._lock:
            return self._bells.setdefault(destination, _Bell())

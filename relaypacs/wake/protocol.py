"""What it takes to wake forward workers and to bound a destination: one protocol each, an adapter for one node, one for
several. `node` chooses; `tests/contract/test_wake.py` and `test_wake_windows.py` hold both to it.
"""

from __future__ import annotations

from typing import Protocol


class Wake(Protocol):
    """Per-destination wake-ups, for any number of threads. Never truth: a lost one costs at most a slow look."""

    def notify(self, destination: str) -> None:
        """Wake every worker of `destination`, also those that are busy now and wait only later. Never blocks."""

    def wait(self, destination: str, timeout_seconds: float) -> bool:
        """Wait until `destination` is notified, up to `timeout_seconds`.

        True, at once, if it was notified since this thread's previous `wait` for it; False when the time was up.
        """

    def close(self) -> None:
        """Nobody else is heard or told from now on. Idempotent."""


class Place(Protocol):
    """A place in a destination's window: one association or request at a time."""

    @property
    def counted(self) -> bool:
        """Whether another could have it."""

    @property
    def overdue(self) -> bool:
        """Whether it has been held for a turn while others wait: release it when what is in flight is done."""


class Windows(Protocol):
    """How many associations or requests a destination gets at once, over all nodes. Thread-safe; never raises."""

    def acquire(self, destination: str, *, waits: bool = False) -> Place | None:
        """A place, or None while there is none; takes `[redis] timeout_seconds` at most.

        `waits`: there is work for it, so stand in the queue for a few seconds; ask again within a second.
        """

    def release(self, place: Place) -> None:
        """Give it back."""

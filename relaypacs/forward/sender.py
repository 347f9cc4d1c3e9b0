"""What it takes to be a way of delivering: the protocol between `dispatch` and the senders (C-STORE, STOW-RS).

One sender serves one worker thread and keeps its association or connection between batches. Answers of peers are
values; a sender raises only for bugs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from relaypacs.model import Claim, Outcome


class Payload(NamedTuple):
    """An instance's bytes, valid only inside the context that gave them: memory-mapped, read-only."""

    file: memoryview
    """The whole DICOM Part 10 file."""
    dataset: memoryview
    """The dataset alone, as it came off the wire."""
    crc32c: int
    """CRC-32C of `dataset` when it was received."""


class Trouble(NamedTuple):
    """The destination is in trouble: claims of the batch that were not reported were not tried."""

    reason: str
    retry_after_seconds: float = 0.0
    """What the destination asked for (Retry-After), or 0."""
    opening: bool = False
    """It was not even begun: no connection or association was had, so nothing was sent."""
    study: str = ""
    """The study whose instances, one after another, drew Out of Resources; it may be their own trouble."""


class Unreadable(Exception):
    """Raised on entering `read(claim)`: its bytes can't be had, and that has been seen to. Go on with the next."""


Read = Callable[[Claim], AbstractContextManager[Payload]]
Report = Callable[[Claim, Outcome, float, float], None]
"""claim, outcome, when its sending started and when its answer came (seconds since the epoch)."""
Proceed = Callable[[Sequence[Claim], Callable[[], None]], bool]
"""What is begun next, and how to release what is open at the destination: whether to go on."""


class Sender(Protocol):
    """One way to one destination, used by one thread."""

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        """Deliver a batch and report each claim that was tried exactly once, with its own outcome.

        Before each new instance or request, and before anything is opened for it, `proceed(claims, rest)` is asked;
        False ends the batch. It may wait, and calls `rest` (which first takes the answers that are owed) if that takes
        long. Claims that were not reported were not tried: the caller gives them back. Returns the destination's
        trouble, or None if there is none; with `opening` nothing is reported for it.
        """

    def prepare(self) -> Trouble | None:
        """Open what the next `deliver` is likely to need, without an instance: how another association is asked for."""

    @property
    def is_open(self) -> bool:
        """Whether an association is held that counts with the destination's limit of them."""

    def rest(self) -> None:
        """Nothing to do for a while: release what is held open at the destination."""

    def close(self) -> None:
        """The thread ends: `rest` for good. Idempotent."""

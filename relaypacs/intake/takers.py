"""What intake knows of this node's forward workers: how much they would begin at once, and how they get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from relaypacs.model import Claim


class Takers(Protocol):
    """The workers of this node, as far as intake knows them (`forward.dispatch.Forwarder`)."""

    def room(self) -> Mapping[str, int]:
        """How many new deliveries of each destination they would begin at once."""

    def idle(self) -> bool:
        """Whether those of some destination have nothing to do, and would begin at once."""

    def hand_over(self, claims: Sequence[Claim], since: tuple[float, float]) -> None:
        """These are leased to them since then (monotonic seconds, seconds since the epoch)."""

    def queued(self, name: str) -> None:
        """There are new deliveries to a destination in the job table."""

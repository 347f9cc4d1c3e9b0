"""The thread that keeps the audit trail: deletes rows in their time, and sees that nobody changed one.

Both in bounded pieces with a pause behind each, so that nobody waits for it. The chain is followed as it grows, and
from its beginning once a day; a break is told once and shows in a metric for as long as it is there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import Gauge

from relaypacs import log
from relaypacs.errors import JobsError
from relaypacs.jobs.audit import Audit
from relaypacs.jobs.audit_rows import NOTHING_CHECKED

LOOK_SECONDS = 300.0
WHOLE_SECONDS = 86400.0
"""How often the chain is followed from its beginning."""
PIECE = 1000
"""Rows deleted in one transaction."""
PAUSE_SECONDS = 0.05

_BROKEN = Gauge(
    "relaypacs_audit_chain_broken",
    "1 if a row of the audit trail is not what it was, or one is missing, else 0.",
    multiprocess_mode="mostrecent",
)


class Keeper:
    """`run` is the thread."""

    def __init__(
        self, trail: Audit, *, keep_seconds: float | None, clock: Callable[[], float] = time.time, piece: int = PIECE
    ) -> None:
        """`keep_seconds`: how long rows stay (None: for ever)."""
        self._trail, self._keep_seconds, self._clock, self._piece = trail, keep_seconds, clock, piece
        self._stopped = threading.Event()
        self._checked = NOTHING_CHECKED
        self._whole_at = 0.0
        self._told = 0

    def stop(self) -> None:
        """Make `run` return after the piece in hand."""
        self._stopped.set()

    def run(self) -> None:
        """Look every few minutes; with the job table down, the next time."""
        while not self._stopped.is_set():
            try:
                self.step()
            except JobsError as problem:
                log.event(log.WARNING, "audit-keeping-waits", f"The audit trail can't be looked after: {problem}")
            self._stopped.wait(LOOK_SECONDS)

    def step(self) -> None:
        """Delete what is past its time, and follow the chain to its end. JobsError."""
        while self._trail.prune(self._keep_seconds, self._clock(), limit=self._piece) == self._piece:
            if self._stopped.wait(PAUSE_SECONDS):
                return
        if self._checked.broken_at is not None or self._clock() >= self._whole_at:
            self._checked, self._whole_at = NOTHING_CHECKED, self._clock() + WHOLE_SECONDS
        more = True
        while more:
            self._checked, more = self._trail.check_on(self._checked)
            if more and self._stopped.wait(PAUSE_SECONDS):
                return
        broken_at = self._checked.broken_at
        _BROKEN.set(0 if broken_at is None else 1)
        if broken_at is not None and broken_at != self._told:
            log.event(
                log.CRITICAL,
                "audit-chain-broken",
                f"Row {broken_at} of the audit trail is not what it was, or one before it is missing: "
                "see who can write to the job table, and compare with the collector.",
                row=broken_at,
            )
        self._told = broken_at or 0

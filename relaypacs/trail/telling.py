"""The thread that writes the audit trail: that the node starts and stops, and what the flow's own rows tell.

It looks every minute (or as often as a study counts as quiet), never while an object waits, and adds rows in one
transaction with the marks of what they tell. With the job table down it waits; what is to be told is in the table's
rows by then, except for what `note` was given, which is held in memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from prometheus_client import Gauge

from relaypacs import log
from relaypacs.errors import JobsError
from relaypacs.jobs.audit import Audit
from relaypacs.jobs.audit_rows import Entry

MOST_SECONDS = 60.0
"""How often it looks at least."""
RETRY_SECONDS = 5.0
PAUSE_SECONDS = 0.05
"""Between transactions when there is much to tell: SQLite lets one write at a time."""
MOST_NOTES = 1000

_TROUBLE = Gauge(
    "relaypacs_audit_trouble",
    "1 while the audit trail can't be written and what happens is told later, else 0.",
    multiprocess_mode="mostrecent",
)
_TOLD = Gauge(
    "relaypacs_audit_told_timestamp_seconds",
    "Up to when the audit trail tells of every delivery, in seconds since 1970; at first when the relay began.",
    multiprocess_mode="mostrecent",
)


class Teller:
    """`run` is the thread."""

    def __init__(
        self,
        trail: Audit,
        *,
        place_of: Callable[[str], Mapping[str, str]],
        quiet_seconds: float,
        written: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`place_of(destination)`: its address, as rows tell it. `written` is told that there may be new rows."""
        self._trail, self._place_of, self._written, self._clock = trail, place_of, written, clock
        self._look_seconds = min(quiet_seconds, MOST_SECONDS)
        self._quiet_seconds = quiet_seconds
        self._notes: list[Entry] = []
        self._lock = threading.Lock()
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._failing = False

    def note(self, kind: str, body: Mapping[str, object] | None = None) -> None:
        """Tell of something the node did, now."""
        entry = Entry(self._clock(), kind, self._trail.node, self._trail.node, body=body or {})
        with self._lock:
            self._notes = [*self._notes, entry][-MOST_NOTES:]
        self._wake.set()

    def stop(self) -> None:
        """Make `run` tell what there is, that the node stops, and return."""
        self._stopped.set()
        self._wake.set()

    def run(self) -> None:
        """Tell, until `stop`."""
        self.note("start")
        _TOLD.set(self._clock())
        while True:
            last = self._stopped.is_set()
            if last:
                self.note("stop")
            self._wake.clear()
            try:
                self.step()
            except JobsError as problem:
                self._say(str(problem))
                if last:
                    return
                self._stopped.wait(RETRY_SECONDS)
                continue
            self._say("")
            if last:
                return
            self._wake.wait(self._look_seconds)

    def step(self) -> None:
        """Tell what there is. JobsError."""
        with self._lock:
            notes = list(self._notes)
        self._trail.add(notes)
        with self._lock:
            self._notes = self._notes[len(notes) :]
        while self._trail.gather(self._clock(), quiet_seconds=self._quiet_seconds, place_of=self._place_of):
            if self._stopped.wait(PAUSE_SECONDS):
                break
        if self._trail.told_to:
            _TOLD.set(self._trail.told_to)
        self._written()

    def _say(self, problem: str) -> None:
        _TROUBLE.set(1 if problem else 0)
        if problem and not self._failing:
            log.event(log.ERROR, "audit-trail-waits", f"The audit trail can't be written, tried again: {problem}")
        elif self._failing and not problem:
            log.event(log.INFO, "audit-trail-written", "The audit trail is written again.")
        self._failing = bool(problem)

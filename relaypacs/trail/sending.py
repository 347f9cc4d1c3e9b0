"""The thread that sends a node's audit rows to the collector: at least once, in their order, however long it is away.

Also those of nodes that are gone for good. The table is the spool: what the collector has had is a mark in it, written
when the collector has read a batch. While it is away nothing is kept in memory, and it is tried again after growing
pauses. A row that was sent when the process died before the mark is sent again.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from relaypacs import log
from relaypacs.dicom.audit_message import encode
from relaypacs.errors import JobsError
from relaypacs.failpoint import reach
from relaypacs.jobs.audit import Audit
from relaypacs.jobs.audit_rows import AuditRow, Entry
from relaypacs.trail.collector import Collector, CollectorDown
from relaypacs.trail.messages import Place, message_of
from relaypacs.trail.syslog import line

BATCH = 200
"""Rows of one connection."""
LOOK_SECONDS = 15.0
"""How often it is looked for rows when nobody said there are any."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
MEASURE_SECONDS = 5.0
"""How often the rows that wait are counted while they are sent: there may be millions."""

_UNSENT = Gauge(
    "relaypacs_audit_unsent_rows",
    "Rows of the audit trail that the collector has not had; 0 without a collector.",
    multiprocess_mode="mostrecent",
)
_OLDEST = Gauge(
    "relaypacs_audit_oldest_unsent_timestamp_seconds",
    "When the oldest of these happened, in seconds since 1970; 0 if there is none.",
    multiprocess_mode="mostrecent",
)
_SENT = Counter("relaypacs_audit_sent_total", "Rows of the audit trail that the collector has read.")
_FAILED = Counter("relaypacs_audit_send_failures_total", "Times that the collector could not be had or took nothing.")


class Sender:
    """`run` is the thread."""

    def __init__(self, trail: Audit, collector: Collector, to: str, place: Place) -> None:
        """`to`: under which name the collector's mark is kept."""
        self._trail, self._collector, self._to, self._place = trail, collector, to, place
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._told = ""
        self._measure_at = 0.0

    def poke(self) -> None:
        """There may be rows."""
        self._wake.set()

    def stop(self) -> None:
        """Make `run` return after one more look."""
        self._stopped.set()
        self._wake.set()

    def run(self) -> None:
        """Send what there is, whenever there is something."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            last = self._stopped.is_set()
            self._wake.clear()
            try:
                more = self.step()
            except (CollectorDown, JobsError) as problem:
                self._say(problem)
                if last:
                    return
                self._stopped.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
                continue
            pause = FIRST_PAUSE_SECONDS
            if more:
                continue
            if last:
                return
            self._wake.wait(LOOK_SECONDS)

    def step(self) -> bool:
        """Send one batch; whether there may be more. CollectorDown, JobsError."""
        rows = self._trail.unsent(self._to, limit=BATCH)
        if not rows or time.monotonic() >= self._measure_at:
            self._measure()
        if not rows:
            return False
        try:
            self._collector.hand_over(self._messages(rows))
        except CollectorDown:
            self._measure()
            raise
        reach("trail.sent")
        self._trail.sent(self._to, rows[-1])
        _SENT.inc(len(rows))
        if len(rows) < BATCH:
            self._measure()
        if self._told:
            log.event(log.INFO, "audit-collector-up", "The audit collector takes messages again.")
            self._told = ""
        return len(rows) == BATCH

    def _messages(self, rows: Sequence[AuditRow]) -> list[bytes]:
        return [self._message(row) for row in rows]

    def _message(self, row: AuditRow) -> bytes:
        try:
            return self._line(row.entry)
        except Exception as bug:
            # Nothing that a row holds may keep those behind it from the collector, or the node from its work.
            said = f"Row {row.id} of the audit trail has no message ({type(bug).__name__}): relaypacs audit shows it."
            log.event(log.ERROR, "audit-message-failed", said, row=row.id)
            return self._line(Entry(0.0, "unreadable", self._place.node, body={"row": row.id}))

    def _line(self, entry: Entry) -> bytes:
        return line(
            encode(message_of(entry, self._place_of(entry.node))),
            at=entry.at,
            host=self._place.host,
            process=str(os.getpid()),
            outcome=entry.outcome,
        )

    def _place_of(self, node: str) -> Place:
        """That of a lost node, whose rows this one sends, is known by its name alone."""
        return self._place if node == self._place.node else Place(node, "", self._place.site)

    def _measure(self) -> None:
        count, oldest = self._trail.backlog(self._to)
        _UNSENT.set(count)
        _OLDEST.set(oldest or 0.0)
        self._measure_at = time.monotonic() + MEASURE_SECONDS

    def _say(self, problem: Exception) -> None:
        _FAILED.inc()
        if str(problem) != self._told:
            log.event(log.ERROR, "audit-collector-down", f"{problem}; audit messages wait in the job table")
        self._told = str(problem)

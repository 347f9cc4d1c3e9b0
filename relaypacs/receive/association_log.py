"""The association log of a receive process: how every association ended, and who was refused, durable in the spool.

Associations say `ended`, whoever refuses says `rejected`; neither waits for the disk. One thread gathers for 50 ms and
appends what there is as one event, with one sync. Intake makes rows of it. While the disk refuses, entries wait and the
oldest of too many are given up, which is said. A process that is killed loses the ends of its last 50 ms: the objects
are not concerned.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from relaypacs import log
from relaypacs.dicom.proposals import describe
from relaypacs.errors import RelayPacsError
from relaypacs.receive.rejections import Refusal, Rejections, Tried

EVENT = "associations"
"""The kind of the spool's event: `ends`, and the `proposals` they refer to by digest."""
REJECTED = "rejected"
"""The outcome of what was refused."""
GATHER_SECONDS = 0.05
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0
MOST_WAITING = 5000
"""Entries held while the disk refuses them."""
_EVENT_BYTES = 64 << 10
"""About the size at which another event is begun; intake holds hundreds of them."""

Entry = Mapping[str, Any]


class AssociationLog:
    """See the module; thread-safe. Nothing is written before `start`."""

    def __init__(self, append: Callable[[str, float, Mapping[str, object]], object]) -> None:
        """`append(kind, time, body)` makes an event durable (`SpoolWriter.append_event`)."""
        self._append = append
        self._entries: deque[Entry] = deque()
        self._rejections = Rejections()
        self._lost = 0
        self._failing = False
        self._closed = False
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="association-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def ended(self, entry: Entry) -> None:
        """An association has ended: everything `jobs.values.AssociationEnd` has."""
        with self._wake:
            self._hold(entry)
            if len(self._entries) == 1:
                self._wake.notify()

    def rejected(self, refusal: Refusal) -> str:
        """A request was refused; returns its id in this log if it deserves a log line of its own, else nothing."""
        with self._wake:
            untold = self._rejections.untold()
            row = self._rejections.note(refusal, time.time())
            if self._rejections.untold() != untold:
                self._wake.notify()
        return row

    def close(self) -> None:
        """Write what there is, then end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._entries:
                    due = self._rejections.due_in(time.time())
                    if due is not None and due <= 0.0:
                        break
                    self._wake.wait(due)
            self._closing.wait(RETRY_SECONDS if self._failing else GATHER_SECONDS)
            with self._wake:
                closed = self._closed
                tried = self._rejections.due(time.time(), everything=closed)
                entries = list(self._entries)
                self._entries.clear()
            entries += map(_entry_of, tried)
            _tell(tried)
            left = self._write(entries)
            if closed:
                self._lost += len(left)
            elif left:
                with self._wake:
                    self._entries.extendleft(reversed(left))
                    while len(self._entries) > MOST_WAITING:
                        self._entries.popleft()
                        self._lost += 1
            self._say(bool(left))
            if closed:
                return

    def _hold(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) > MOST_WAITING:
            self._entries.popleft()
            self._lost += 1

    def _write(self, entries: list[Entry]) -> list[Entry]:
        """Make entries durable, in as few events as they fit; returns those that could not be."""
        done = 0
        for body in _events(entries):
            try:
                self._append(EVENT, time.time(), body)
            except (RelayPacsError, OSError):
                return entries[done:]
            done += len(body["ends"])
        return []

    def _say(self, failing: bool) -> None:
        if failing and not self._failing:
            log.event(log.ERROR, "association-log-waits", "the spool does not take how associations ended, tried again")
        elif self._failing and not failing:
            log.event(log.INFO, "association-log-written", "how associations ended is written again")
        self._failing = failing
        if self._lost and (self._closed or not failing):
            log.event(log.ERROR, "association-log-lost", "how some associations ended is not recorded", lost=self._lost)
            self._lost = 0


def _entry_of(tried: Tried) -> Entry:
    refusal = tried.refusal
    return {
        "association_id": tried.row,
        "calling_ae": refusal.calling_ae,
        "called_ae": refusal.called_ae,
        "peer": refusal.peer,
        "tls": refusal.tls,
        "started_at": tried.began_at,
        "ended_at": tried.last_at,
        "outcome": REJECTED,
        "word": refusal.word,
        "reason": refusal.sentence,
        "tries": tried.tries,
        "objects": 0,
        "bytes": 0,
        "contexts": describe(refusal.contexts, None).text if refusal.contexts else "",
    }


def _tell(tried: list[Tried]) -> None:
    for one in tried:
        if one.lines_left_out:
            log.event(
                log.WARNING,
                "association-rejected-again",
                one.refusal.sentence,
                trace_id=one.row,
                user_id=one.refusal.calling_ae,
                called_ae=one.refusal.called_ae,
                peer=one.refusal.peer,
                reason=one.refusal.word,
                more=one.lines_left_out,
                tries=one.tries,
            )


def _events(entries: list[Entry]) -> Iterator[dict[str, Any]]:
    """Bodies of events: the entries in order, each list of contexts once in each event."""
    ends: list[Entry] = []
    proposals: dict[str, str] = {}
    size = 0
    for entry in entries:
        contexts = str(entry.get("contexts", ""))
        digest = hashlib.sha256(contexts.encode()).hexdigest()[:16] if contexts else ""
        end = {**entry, "contexts": digest}
        more = len(json.dumps(end)) + (len(contexts) if digest not in proposals else 0)
        if ends and size + more > _EVENT_BYTES:
            yield {"ends": ends, "proposals": proposals}
            ends, proposals, size = [], {}, 0
            more = len(json.dumps(end)) + len(contexts)
        ends.append(end)
        if digest:
            proposals[digest] = contexts
        size += more
    if ends:
        yield {"ends": ends, "proposals": proposals}

"""Connections that end before they ask for an association: told line by line, and as a number when they are many.

Used by `receive.edge`, in its thread. Nobody has shown who he is by then, so nobody may fill a disk with lines: of an
address and a kind of end there are the first few, then a line a minute with how many more. What is looked at is
bounded as for refusals. A bare connect and close (a load balancer's) is a debug line and is not counted.
"""

from __future__ import annotations

import time

from relaypacs import log
from relaypacs.receive.rejections import REPEAT_SECONDS, Refusal, Rejections
from relaypacs.receive.waiting import Phase, Waiting

_CLOSED = "connection-closed", "closed before an association was requested"
_DISPLACED = "connection-displaced", "too many connections wait"
_TIMEOUTS = {
    Phase.HEADER: ("proxy-header-timeout", "no PROXY protocol header came in time"),
    Phase.HANDSHAKE: ("tls-handshake-timeout", "the TLS handshake was not done in time"),
    Phase.REQUEST: ("association-request-timeout", "no A-ASSOCIATE-RQ came in time"),
}


class Unasked:
    """What a process tells of them; of one that has had its answer nothing."""

    def __init__(self) -> None:
        self._ends = Rejections()
        self.tell_at: float | None = None
        """When numbers are to be told (monotonic seconds); None while there are none."""

    def closed(self, waiting: Waiting) -> None:
        """The peer closed; without a word from it, it only looked whether we are there."""
        self._told(waiting, log.INFO if waiting.begun else log.DEBUG, _CLOSED)

    def timed_out(self, waiting: Waiting) -> None:
        """What is awaited of the peer did not come in time."""
        if not waiting.refused:
            level = log.WARNING if waiting.begun else log.DEBUG if waiting.local else log.INFO
            self._told(waiting, level, _TIMEOUTS[waiting.phase])

    def displaced(self, waiting: Waiting) -> None:
        """It had waited longest when too many did."""
        self._told(waiting, log.WARNING, _DISPLACED)

    def _told(self, waiting: Waiting, level: int, end: tuple[str, str]) -> None:
        if waiting.refused or (level != log.DEBUG and not self._own_line(waiting, *end)):
            return
        log.event(level, *end, peer=waiting.peer)

    def _own_line(self, waiting: Waiting, event: str, sentence: str) -> bool:
        now = time.monotonic()
        if self.tell_at is None:
            self.tell_at = now + REPEAT_SECONDS
        return bool(self._ends.note(Refusal(waiting.host, waiting.peer, "", "", event, sentence), now))

    def tell(self, now: float = float("inf")) -> None:
        """Say the numbers, if it is time by `now` (monotonic seconds)."""
        if self.tell_at is None or self.tell_at > now:
            return
        self.tell_at = None
        for one in self._ends.due(min(now, time.monotonic()), everything=True):
            if one.lines_left_out:
                log.event(
                    log.WARNING,
                    "connections-ended-again",
                    one.refusal.sentence,
                    peer=one.refusal.peer,
                    reason=one.refusal.word,
                    more=one.lines_left_out,
                )

"""The receipt desk: stages at once what a modality waits for, and says so (`[[caller]] ack = "staged"`).

One thread of the relay process. A receive process has committed an object to the spool and holds back its answer; when
intake has committed the object's rows, it is put to staging without the hot time, and the receipt is sent after the
job table names the staged object. An identical object received before is waited for in the same way. With the job
table or staging down nothing is answered, and the modality gets A700 when its deadline is over: never a false Success.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter

from relaypacs import log
from relaypacs.errors import JobsError, SpoolError, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Unstaged
from relaypacs.stager import Stager
from relaypacs.wake.receipts import ReceiptSocket, Wish

AGAIN_SECONDS = 0.5
"""How often what could not be answered is looked at again."""
_RECEIPTS = Counter("relaypacs_receipts_total", "Objects whose sender waited until they were staged, by end.", ["end"])
_GIVEN, _EXPIRED = _RECEIPTS.labels("given"), _RECEIPTS.labels("expired")


class Rows(Protocol):
    """What the desk must know of the one who reads the log (`intake.Intake`)."""

    def has_read(self, generation: str, end: int) -> bool:
        """Whether the rows of everything up to byte `end` of the segment are committed."""
        ...


class ReceiptDesk:
    """`run` is the thread; `rows_changed` may be called by any."""

    def __init__(self, socket: ReceiptSocket, *, node: str, rows: Rows, jobs: JobStore, stager: Stager) -> None:
        """`stager` is the desk's own."""
        self._socket, self._node, self._rows, self._jobs, self._stager = socket, node, rows, jobs, stager
        self._waiting: list[tuple[Wish, Callable[[], None]]] = []
        self._stopped = threading.Event()
        self._failing = False

    def rows_changed(self) -> None:
        """Intake has committed something: look."""
        if self._waiting:
            self._socket.poke()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopped.set()
        self._stager.stop()
        self._socket.poke()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped.is_set():
            self._waiting += self._socket.wait(AGAIN_SECONDS if self._waiting else None)
            try:
                self._look()
            except (JobsError, SpoolError, StagingError, OSError) as problem:
                if not self._failing:
                    log.event(log.ERROR, "receipts-wait", f"Senders that want a receipt wait: {problem}")
                self._failing = True
                self._stopped.wait(AGAIN_SECONDS)
            else:
                self._failing = self._failing and bool(self._waiting)
        self._socket.close()

    def _look(self) -> None:
        now = time.monotonic()
        late = [one for one in self._waiting if one[0].until <= now]
        _EXPIRED.inc(len(late))
        self._waiting = [one for one in self._waiting if one[0].until > now]
        ready = [one for one in self._waiting if self._rows.has_read(one[0].generation, one[0].end)]
        if not ready:
            return
        uids = {wish.sop_instance_uid for wish, _ in ready}
        only_here = self._jobs.copies.only_in_spool(uids)
        mine = [row for rows in only_here.values() for node, row in rows if node == self._node]
        problems: list[Exception] = []
        if mine:
            problems = self._stager.stage(_each_once(mine))
            only_here = self._jobs.copies.only_in_spool(uids)
        reach("receipts.staged")
        # A UID without a row is not staged, whatever the reason.
        done = {uid for uid, rows in only_here.items() if not rows}
        for wish, answer in ready:
            if wish.sop_instance_uid in done:
                answer()
                _GIVEN.inc()
        given = {id(one) for one in ready if one[0].sop_instance_uid in done}
        self._waiting = [one for one in self._waiting if id(one) not in given]
        if problems:
            raise problems[0]


def _each_once(rows: list[Unstaged]) -> list[Unstaged]:
    return list({row.instance_id: row for row in rows}.values())

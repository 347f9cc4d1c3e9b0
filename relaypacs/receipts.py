"""The receipt desk: stages at once what a modality waits for, and says so (`[[caller]] ack = "staged"`).

One thread of the relay process, beside its stager's. A receive process has committed an object to the spool and holds
back its answer; when intake has committed the object's rows, it is put to staging without the hot time, and the receipt
is sent after the job table names the staged object, whatever other objects still take. Puts that end together are told
to the job table together. An identical object received before is waited for in the same way. With the job table or
staging down nothing is answered, and the modality gets A700 when its deadline is over: never a false Success.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from prometheus_client import Counter

from relaypacs import log
from relaypacs.errors import JobsError, SpoolError, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.stager import Stager
from relaypacs.wake.receipts import ReceiptSocket, Wish

AGAIN_SECONDS = 0.5
"""How often what could not be answered is looked at again, and how soon a put that failed is tried again first."""
MOST_WAIT_SECONDS = 8.0
"""The longest wait between two tries to put one instance, which doubles each time."""
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
        """`stager` is the desk's own, for staging that all nodes share."""
        self._socket, self._node, self._rows, self._jobs, self._stager = socket, node, rows, jobs, stager
        self._waiting: list[tuple[Wish, Callable[[], None]]] = []
        self._put: dict[str, set[int]] = {}
        """By SOP Instance UID, what is on its way to staging: until it is there, there is nothing to ask."""
        self._later: dict[int, _Later] = {}
        self._stopped = threading.Event()
        self._failing = False

    def rows_changed(self) -> None:
        """Intake has committed something: look."""
        if self._waiting:
            self._socket.poke()

    def reads(self, generation: str) -> bool:
        """Whether something of that segment is on its way to staging. Safe to call from another thread."""
        return self._stager.reads(generation)

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
                self._say(problem)
                self._stopped.wait(AGAIN_SECONDS)
        with suppress(JobsError):
            self._stager.stage([])  # what is on its way ends, and the job table is told
        self._socket.close()

    def _say(self, problem: Exception) -> None:
        if not self._failing:
            log.event(log.ERROR, "receipts-wait", f"Senders that want a receipt wait: {problem}")
        self._failing = True

    def _look(self) -> None:
        now = time.monotonic()
        late = [one for one in self._waiting if one[0].until <= now]
        _EXPIRED.inc(len(late))
        self._waiting = [one for one in self._waiting if one[0].until > now]
        self._gather(now)
        ready = [
            one
            for one in self._waiting
            if one[0].sop_instance_uid not in self._put and self._rows.has_read(one[0].generation, one[0].end)
        ]
        only_here = self._jobs.copies.only_in_spool({wish.sop_instance_uid for wish, _ in ready}) if ready else {}
        # A UID without a row is not staged, whatever the reason.
        done = {uid for uid, rows in only_here.items() if not rows}
        if done:
            reach("receipts.staged")
        for wish, answer in ready:
            if wish.sop_instance_uid in done:
                answer()
                _GIVEN.inc()
        given = {id(one) for one in ready if one[0].sop_instance_uid in done}
        self._waiting = [one for one in self._waiting if id(one) not in given]
        waited_for = {wish.sop_instance_uid for wish, _ in self._waiting}
        self._later = {key: wait for key, wait in self._later.items() if wait.uid in waited_for}
        self._failing = self._failing and bool(self._later)
        for uid, rows in only_here.items():
            due = [row for node, row in rows if node == self._node and self._is_due(row.instance_id, now)]
            if due:
                self._put[uid] = {row.instance_id for row in due}
                self._stager.begin(due, self._socket.poke)

    def _is_due(self, instance_id: int, now: float) -> bool:
        return instance_id not in self._later or self._later[instance_id].at <= now

    def _gather(self, now: float) -> None:
        """What became of the puts that have ended; one that failed is tried again later, and holds up no other."""
        outcomes = self._stager.told()
        if not outcomes:
            return
        for uid, ids in list(self._put.items()):
            for instance_id in ids & outcomes.keys():
                problem = outcomes[instance_id]
                wait = AGAIN_SECONDS
                if problem is not None:
                    self._say(problem)
                    if instance_id in self._later:
                        wait = min(self._later[instance_id].wait * 2, MOST_WAIT_SECONDS)
                # Also what was put and is still not staged: its bytes have moved since they were read.
                self._later[instance_id] = _Later(uid, now + wait, wait)
            self._put[uid] = ids - outcomes.keys()
            if not self._put[uid]:
                del self._put[uid]


class _Later(NamedTuple):
    """When to try an instance again (time.monotonic()), and how long that is after the last try, in seconds."""

    uid: str
    at: float
    wait: float

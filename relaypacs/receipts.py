"""The receipt desk: stages at once what a modality waits for, and says so (`[[caller]] ack = "staged"`).

One thread of the relay process, and one for each put. A receive process has committed an object to the spool and holds
back its answer; when intake has committed the object's rows, it is put to staging without the hot time, and the receipt
is sent after the job table names the staged object, whatever other objects still take. An identical object received
before is waited for in the same way. With the job table or staging down nothing is answered, and the modality gets A700
when its deadline is over: never a false Success.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

from prometheus_client import Counter

from relaypacs import log
from relaypacs.errors import JobsError, SpoolError, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Unstaged
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

    def __init__(
        self, socket: ReceiptSocket, *, node: str, rows: Rows, jobs: JobStore, stager: Stager, puts_at_once: int = 1
    ) -> None:
        """`stager` is the desk's own; more than one put at once only where its staging is shared."""
        self._socket, self._node, self._rows, self._jobs, self._stager = socket, node, rows, jobs, stager
        self._pool = ThreadPoolExecutor(puts_at_once, "receipts")
        self._waiting: list[tuple[Wish, Callable[[], None]]] = []
        self._going: dict[int, Future[Exception | None]] = {}
        self._later: dict[int, _Later] = {}
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
                self._say(problem)
                self._stopped.wait(AGAIN_SECONDS)
        self._pool.shutdown(cancel_futures=True)
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
        ready = [one for one in self._waiting if self._rows.has_read(one[0].generation, one[0].end)]
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
        mine = {row.instance_id: row for rows in only_here.values() for node, row in rows if node == self._node}
        self._later = {key: wait for key, wait in self._later.items() if key in mine or key in self._going}
        self._failing = self._failing and bool(self._later)
        for key, row in mine.items():
            if key not in self._going and (key not in self._later or self._later[key].at <= now):
                self._going[key] = self._pool.submit(self._stage, row)
                # Not before the thread has an outcome: `_look` has to find it.
                self._going[key].add_done_callback(lambda _: self._socket.poke())

    def _gather(self, now: float) -> None:
        """What became of the puts that have ended; one that failed is tried again later, and holds up no other."""
        for key in [key for key, put in self._going.items() if put.done()]:
            problem = self._going.pop(key).result()
            wait = AGAIN_SECONDS
            if problem is not None:
                self._say(problem)
                wait = min(self._later[key].wait * 2, MOST_WAIT_SECONDS) if key in self._later else wait
            # Also what was put and is still not staged: its bytes have moved since they were read.
            self._later[key] = _Later(now + wait, wait)

    def _stage(self, row: Unstaged) -> Exception | None:
        try:
            problems = self._stager.stage([row])
        except (JobsError, SpoolError, StagingError, OSError) as problem:
            return problem
        return problems[0] if problems else None


class _Later(NamedTuple):
    """When to try an instance again (time.monotonic()), and how long that is after the last try, in seconds."""

    at: float
    wait: float

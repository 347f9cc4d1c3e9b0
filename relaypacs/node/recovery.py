"""What the relay does about its database having failed over, and about being asked to drain.

A thread of the relay process. A job table that lacks what this node told it, or that is in another history than before
(a standby took over, a backup was restored), ends the process, which is started anew: the one way in which everything
in memory is read again. The new life reads the spool from where the table ends and compares staging with the rows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from relaypacs import log
from relaypacs.config import Config
from relaypacs.errors import JobsError, RowsLost, StagingError
from relaypacs.intake import ArrivalOf
from relaypacs.intake.restoring import QUEUE_SECONDS, Restorer, tell
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Joined
from relaypacs.node.supervisor import Stop
from relaypacs.receive.draining import any_open
from relaypacs.staging.protocol import Staging

LOOK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
"""How often it says how it stands while it is being drained."""
EXIT_AGAIN = 75  # EX_TEMPFAIL, sysexits.h


class Recovery:
    """`run` is the thread; the relay's other threads run under `guard`."""

    def __init__(
        self,
        config: Config,
        *,
        jobs: JobStore,
        staging: Staging,
        arrival_of: ArrivalOf,
        joined: Joined,
        stop: Stop,
        notify: Callable[[str], None],
    ) -> None:
        self._config, self._jobs, self._staging, self._arrival_of = config, jobs, staging, arrival_of
        self._joined, self._stop, self._notify = joined, stop, notify
        self._name = config.node.name
        self._spool_read = threading.Event()
        self._look = threading.Event()
        self._all_read: Callable[[], bool] = lambda: False
        self._asked_at = self._answered_at = 0.0
        self._may_be_quiet = self._was_quiet = False
        self._was_empty = False
        with suppress(JobsError):
            self._was_empty = jobs.restoring.is_empty()
        self.exit_code = 0

    def guard(self, run: Callable[[], object]) -> Callable[[], None]:
        """`run`, ending the process where rows turn out to be lost."""

        def guarded() -> None:
            try:
                run()
            except RowsLost as lost:
                self._start_anew(str(lost))

        return guarded

    def spool_is_read(self, all_read: Callable[[], bool]) -> None:
        """Everything the spool held at start has rows: staging may be compared with them now. `all_read()`: whether
        all it holds later has."""
        self._all_read = all_read
        self._spool_read.set()

    def poke(self) -> None:
        """Somebody changed something: look at once."""
        self._look.set()

    def run(self) -> None:
        """Reconcile if need be, then look every few seconds, until the process is told to stop."""
        self._watch_draining()
        self._look_for_a_lost_table()
        while not self._spool_read.wait(1.0):
            if self._stop.event.is_set():
                return
            self._watch_draining()
        if self._joined.failed_over:
            self._reconcile()
        self._may_be_quiet = True
        while not self._stop.event.is_set():
            self._look.wait(ANSWER_SECONDS if self._config.draining_file.exists() else LOOK_SECONDS)
            self._look.clear()
            self._watch_draining()
            self._watch_history()

    def stop(self) -> None:
        """Make `run` return; the stop is set already."""
        self._spool_read.set()
        self._look.set()

    def _start_anew(self, why: str) -> None:
        log.event(log.WARNING, "database-failed-over", f"{why} The relay starts anew and brings back what is missing.")
        self.exit_code = EXIT_AGAIN
        self._stop.set()

    def _reconcile(self) -> None:
        told = False
        while not self._stop.event.is_set():
            restorer = Restorer(
                node=self._name,
                jobs=self._jobs,
                staging=self._staging,
                arrival_of=self._arrival_of,
                queue_seconds=QUEUE_SECONDS,
            )
            try:
                done = restorer.run(stopped=self._stop.event.is_set, on_progress=lambda _: self._watch_draining())
                if self._stop.event.is_set():
                    return
                self._jobs.nodes.recovered(self._name, self._joined.timeline)
            except (JobsError, StagingError) as problem:
                if not told:
                    log.event(log.ERROR, "reconcile-waits", f"Staging can't be compared with the job table: {problem}")
                told = True
                self._stop.event.wait(LOOK_SECONDS)
                self._watch_draining()
                continue
            tell(done)
            for destination in done.notify:
                self._notify(destination)
            return

    def _look_for_a_lost_table(self) -> None:
        with suppress(StagingError):
            if self._was_empty and next(iter(self._staging.scan()), None) is not None:
                log.event(
                    log.WARNING,
                    "rows-missing",
                    "Staging holds objects and the job table knew none; if it was lost, `relaypacs rebuild "
                    "--into-existing` restores it.",
                )

    def _watch_history(self) -> None:
        with suppress(JobsError):
            now = self._jobs.nodes.timeline()
            if now and self._joined.timeline and now != self._joined.timeline:
                self._start_anew("The database is in another history than before: a standby took over.")

    def _watch_draining(self) -> None:
        """Have the receive processes refuse associations while the job table says that this node is being drained."""
        marker = self._config.draining_file
        with suppress(JobsError, OSError):
            asked_at = self._jobs.nodes.draining_since(self._name)
            draining = asked_at is not None
            if draining and not marker.exists():
                marker.touch()
                log.event(
                    log.WARNING, "node-draining", "The node takes no associations any more and delivers the rest."
                )
            elif not draining and marker.exists():
                marker.unlink()
                log.event(log.INFO, "node-drain-cancelled", "The node takes associations again.")
            if asked_at is not None:
                self._answer(asked_at)

    def _answer(self, asked_at: float) -> None:
        """Say how the node stands; the marker is there, so whoever has no association open by now gets none.

        Quiet is what it was twice: how an association ended is written a moment after its end.
        """
        now = time.monotonic()
        if asked_at != self._asked_at:
            self._asked_at, self._was_quiet = asked_at, False
        elif now - self._answered_at < ANSWER_SECONDS:
            return
        self._answered_at = now
        quiet = self._may_be_quiet and not any_open(self._config.associations_file) and self._all_read()
        self._jobs.nodes.answer(self._name, asked_at, time.time() if quiet and self._was_quiet else None)
        self._was_quiet = quiet

"""What tidies behind the flow: stages what outlives the spool, frees segments, purges what was kept long enough.

One thread of the relay process. It may be late but never wrong: a segment is freed only when its rows are committed
and every instance in it is staged or settled with nothing to keep; a staged file is deleted only when every delivery
of it is settled. With the job table or staging down it waits, and the spool grows to its mark. On a disk that fills up,
what is only kept goes first, so that reception goes on; and staging leaves what the job table needs, so that delivery
goes on and the disk empties itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter, Gauge

from relaypacs import log
from relaypacs.errors import JobsError, RowsLost, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import ANYWHERE
from relaypacs.spool.reader import SpoolReader
from relaypacs.stager import Stager
from relaypacs.staging.protocol import Staging

BATCH = 200
"""Instances staged between two syncs, and files purged at once."""
IDLE_SECONDS = 15.0
"""How often the sweep looks when nothing was received or settled."""
RETRY_SECONDS = 5.0
CARRY_AFTER_SECONDS = 86400.0
"""How long the ledger knows an association of which no row is left: whoever looks tomorrow still finds it."""

_PURGED = Counter(
    "relaypacs_purged_instances_total", "Staged files deleted because they were settled and kept long enough."
)
_FORGOTTEN = Counter(
    "relaypacs_forgotten_instances_total", "Instances whose rows were deleted: no bytes left, over for long enough."
)
_FREED = Counter("relaypacs_spool_freed_segments_total", "Spool segments freed for reuse or deleted.")
_TROUBLE = Gauge(
    "relaypacs_sweep_trouble",
    "1 while staging or freeing fails and is tried again, else 0.",
    multiprocess_mode="mostrecent",
)


class Reading(Protocol):
    """What the sweep must know of the one who reads the log."""

    def finished(self, generation: str) -> bool:
        """Whether everything the segment will ever hold has become rows."""
        ...

    def taken_in(self, generation: str) -> int:
        """How far the job table was told the segment is taken in, in bytes."""
        ...

    def forgotten(self, generation: str) -> None:
        """The segment has been freed."""
        ...


class Sweep:
    """The relay's housekeeping, in one thread."""

    def __init__(
        self,
        *,
        node: str,
        reader: SpoolReader,
        jobs: JobStore,
        staging: Staging,
        intake: Reading,
        nudged: threading.Event,
        hash_key: bytes,
        hot_seconds: float,
        keep_seconds: float | None,
        min_free_bytes: int,
        date: str,
        keep_rows_seconds: float | None = None,
        shared: bool = False,
        puts_at_once: int = 1,
        standby_lag_seconds: float = 0.0,
        told_to: Callable[[], float] = lambda: math.inf,
        also_read: Callable[[str], bool] = lambda _: False,
        on_trouble: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`nudged` is set by anyone after rows or deliveries changed.

        `keep_seconds`: how long settled instances stay staged (None: for ever); `min_free_bytes`: the spool's mark;
        `date`: `study` or `received`; `keep_rows_seconds`: how long rows stay when all is over (None: for ever).
        `shared`: all nodes have this staging, and `puts_at_once` objects are put to it together. `on_trouble` is told
        why staging or freeing fails, and "" when it works again. `standby_lag_seconds`: how long what is not needed
        stays because a standby of the database may not know yet. `also_read`: whether somebody else is just putting
        something of a segment to staging. `told_to`: rows of what ended since then stay, the
        audit trail is made of them.
        """
        self._node, self._reader, self._jobs, self._staging, self._intake = node, reader, jobs, staging, intake
        self._hot_seconds, self._keep_seconds = hot_seconds, keep_seconds
        self._homes = (node, ANYWHERE) if shared else (node,)
        self._on_trouble, self._also_read = on_trouble, also_read
        self._lag_seconds = standby_lag_seconds
        self._unwanted_since: dict[str, float] = {}
        self._stager = Stager(
            node=node,
            reader=reader,
            jobs=jobs,
            staging=staging,
            segment_gone=intake.forgotten,
            hash_key=hash_key,
            date=date,
            leave_free_bytes=min_free_bytes // 2,
            shared=shared,
            puts_at_once=puts_at_once,
            clock=clock,
        )
        # The spool stops at its mark, and staging at half of it: the rest is for rows. A little above it, room is made.
        self._short_bytes, self._roomy_bytes = min_free_bytes * 5 // 4, min_free_bytes * 3 // 2
        self._keep_rows_seconds, self._told_to = keep_rows_seconds, told_to
        self._clock = clock
        self._nudged = nudged
        self._short = False
        self._moved = 0
        # Segments of an earlier life, which may have died between a put to shared staging and its row: what is in them
        # is put again, though nobody needs it, so that a row names the object and it is purged.
        self._doubtful = set(reader.generations()) if shared and keep_seconds == 0.0 else set()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make `run` return after the step in hand."""
        self._stopped.set()
        self._stager.stop()
        self._nudged.set()

    def run(self) -> None:
        """Sweep after each nudge, once the hot time is over, until nothing is left; and every `IDLE_SECONDS`."""
        failing = False
        _TROUBLE.set(0)
        while not self._stopped.is_set():
            came_late = self._nudged.is_set()
            self._nudged.clear()
            try:
                left = self.step()
            except RowsLost:
                raise
            except (JobsError, StagingError, OSError) as problem:
                if not failing:
                    log.event(log.ERROR, "sweep-trouble", f"Staging or freeing failed, tried again: {problem}")
                failing = True
                _TROUBLE.set(1)
                self._on_trouble(str(problem))
                # A few that can't be copied slow the others down no more than they must.
                self._stopped.wait(0.0 if self._moved >= BATCH // 2 else RETRY_SECONDS)
                continue
            if failing:
                log.event(log.INFO, "sweep-recovered", "Staging and freeing work again.")
                _TROUBLE.set(0)
                self._on_trouble("")
            failing = False
            if left:
                continue
            # Whatever was nudged is not cold before the hot time is over, and is then looked at once; what came in
            # that time is cold only after another.
            look_every_seconds = RETRY_SECONDS if self._short else IDLE_SECONDS
            if came_late or (self._nudged.wait(look_every_seconds) and not self._stopped.is_set()):
                self._stopped.wait(self._hot_seconds + 0.05)

    def step(self) -> bool:
        """Do one bounded round of everything. True when there was more than one round's worth.

        Purging and freeing make room, so they don't wait for staging to work. The first StagingError or OSError is
        raised when all was tried, a JobsError at once.
        """
        self._moved = 0
        self._look_at_room()
        done: list[int] = []
        problems: list[Exception] = []
        for deed in (self.purge, lambda: self.stage(self._clock() - self._hot_seconds), self.free, self.forget):
            try:
                done.append(deed())
            except (StagingError, OSError) as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
        purged, staged, _, forgotten = done
        return max(purged * len(self._homes), staged, forgotten) >= BATCH or bool(self._stager.going())

    def stage(self, received_before: float) -> int:
        """Copy instances received before that time (seconds) into staging, durable as one. Returns how many.

        One that can't be copied holds up none of the others; the first such failure is raised when they are staged.
        To shared staging some may still be on their way then; the next call gathers them.
        """
        found = self._jobs.to_stage(self._node, received_before=received_before, keep=self._keeps(), limit=BATCH)
        if self._doubtful:
            known = {row.instance_id for row in found}
            more = self._jobs.to_stage(self._node, received_before=received_before, keep=True, limit=BATCH)
            found += [row for row in more if row.generation in self._doubtful and row.instance_id not in known]
        problems = self._stager.stage(found)
        self._moved = self._stager.staged
        if problems:
            raise problems[0]
        return len(found)

    def _keeps(self, generation: str = "") -> bool:
        """Whether what is settled is kept now: what is kept for ever always, the rest while there is room; in that
        segment, if one is given."""
        kept = self._keep_seconds is None or (self._keep_seconds > 0.0 and not self._short)
        return kept or generation in self._doubtful

    def _look_at_room(self) -> None:
        enough = self._roomy_bytes if self._short else self._short_bytes
        short = self._keep_seconds is not None and self._staging.free_bytes() < enough
        if short and not self._short:
            log.event(log.WARNING, "disk-short", "Settled instances are no longer kept: the disk is almost full.")
        elif self._short and not short:
            log.event(log.INFO, "disk-roomy", "There is room again to keep settled instances.")
        self._short = short

    def free(self) -> int:
        """Free every segment that nothing needs any more (the reader quarantines damaged ones). Returns how many."""
        freed = 0
        there = self._reader.generations()
        self._doubtful.intersection_update(there)
        for generation in there:
            if (
                # What is on its way to a bucket gets a row that says so: the row must count on its bytes until then.
                not (self._stager.reads(generation) or self._also_read(generation))
                and self._outlasted_standby(generation)
                and self._intake.finished(generation)
                and not self._jobs.segment_needed(
                    self._node, generation, self._keeps(generation), end=self._intake.taken_in(generation)
                )
                # The file goes first: a checkpoint without a file is forgotten at start, a file without a
                # checkpoint would be taken in a second time.
                and self._reader.free(generation)
            ):
                reach("sweep.freed")
                self._jobs.forget_segment(self._node, generation)
                self._intake.forgotten(generation)
                self._unwanted_since.pop(generation, None)
                _FREED.inc()
                freed += 1
        return freed

    def _outlasted_standby(self, generation: str) -> bool:
        """Whether a standby has had the time to learn that nothing in the segment is wanted."""
        if not self._lag_seconds:
            return True
        now = self._clock()
        keeps = self._keeps(generation)
        if not self._intake.finished(generation) or self._jobs.segment_wanted(self._node, generation, keeps):
            self._unwanted_since[generation] = now
        return now - self._unwanted_since.setdefault(generation, now) >= self._lag_seconds

    def purge(self) -> int:
        """Delete staged files that were settled longer ago than `keep`, or are only kept on a disk that is short of
        room, and what an attempt to stage left. Returns how many; none while another node purges shared staging.

        One that can't be deleted holds up none of the others; the first such failure is raised when they are gone."""
        with self._jobs.purges.alone() as mine:
            return self._purge(mine) if mine() else 0

    def _purge(self, mine: Callable[[], bool]) -> int:
        before = None
        if self._keep_seconds is not None:
            before = self._clock() - max(self._keep_seconds if self._keeps() else 0.0, self._lag_seconds)
        rows = [
            row
            for home in self._homes
            for row in self._jobs.purgeable(home, settled_before=before, limit=BATCH // len(self._homes))
        ]
        gone: list[tuple[int, str]] = []
        problems: list[Exception] = []
        for row in rows:
            reach("sweep.purging")
            if not mine():
                raise JobsError("Another node has begun to purge.")
            try:
                self._staging.delete(row[1])
            except (StagingError, OSError) as problem:
                problems.append(problem)
            else:
                gone.append(row)
        if gone:
            reach("sweep.purged")
            self._jobs.purged(gone)
            _PURGED.inc(len(gone))
        if problems:
            raise problems[0]
        return len(gone)

    def forget(self) -> int:
        """Delete rows that have no bytes and were over longer ago than they are to be kept, and associations of the
        log that ended longer ago; a day later sum up those of which nothing is left. Returns how many, of the kind
        that had most."""
        if self._keep_rows_seconds is None:
            return 0
        before = min(self._clock() - self._keep_rows_seconds, self._told_to())
        gone = self._jobs.forget(settled_before=before, limit=BATCH)
        _FORGOTTEN.inc(gone)
        log_gone = self._jobs.associations.forget(ended_before=before, limit=BATCH)
        carried = self._jobs.associations.carry_forward(ended_before=before - CARRY_AFTER_SECONDS, limit=BATCH)
        return max(gone, log_gone, carried)

"""What tidies behind the flow: stages what outlives the spool, frees segments, purges what was kept long enough.

One thread of the relay process. It may be late but never wrong: a segment is freed only when its rows are committed
and every instance in it is staged or settled with nothing to keep; a staged file is deleted only when every delivery
of it is settled. With the job table or staging down it waits, and the spool grows to its mark. On a disk that fills up,
what is only kept goes first, so that reception goes on; and staging leaves what the job table needs, so that delivery
goes on and the disk empties itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

from prometheus_client import Counter, Gauge

from relaypacs import log
from relaypacs.errors import JobsError, SegmentGone, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Unstaged
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.keys import staged_key
from relaypacs.staging.protocol import StagedFacts, Staging

BATCH = 200
"""Instances staged between two syncs, and files purged at once."""
IDLE_SECONDS = 60.0
"""How often the sweep looks when nothing was received or settled."""
RETRY_SECONDS = 5.0

_STAGED = Counter("relaypacs_staged_instances_total", "Instances copied from the spool to staging.")
_STAGED_BYTES = Counter("relaypacs_staged_bytes_total", "Bytes copied from the spool to staging.")
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`nudged` is set by anyone after rows or deliveries changed.

        `keep_seconds`: how long settled instances stay staged (None: for ever); `min_free_bytes`: the spool's mark;
        `date`: `study` or `received`; `keep_rows_seconds`: how long rows stay when all is over (None: for ever).
        """
        self._node, self._reader, self._jobs, self._staging, self._intake = node, reader, jobs, staging, intake
        self._hash_key, self._hot_seconds, self._keep_seconds, self._date = hash_key, hot_seconds, keep_seconds, date
        # The spool stops at its mark, and staging at half of it: the rest is for rows. A little above it, room is made.
        self._leave_free_bytes = min_free_bytes // 2
        self._short_bytes, self._roomy_bytes = min_free_bytes * 5 // 4, min_free_bytes * 3 // 2
        self._keep_rows_seconds = keep_rows_seconds
        self._clock = clock
        self._nudged = nudged
        self._short = False
        self._moved = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Make `run` return after the step in hand."""
        self._stopped.set()
        self._nudged.set()

    def run(self) -> None:
        """Sweep after each nudge, once the hot time is over, until nothing is left; look every minute besides."""
        failing = False
        while not self._stopped.is_set():
            self._nudged.clear()
            try:
                left = self.step()
            except (JobsError, StagingError, OSError) as problem:
                if not failing:
                    log.event(log.ERROR, "sweep-trouble", f"Staging or freeing failed, tried again: {problem}")
                failing = True
                _TROUBLE.set(1)
                # A few that can't be copied slow the others down no more than they must.
                self._stopped.wait(0.0 if self._moved >= BATCH // 2 else RETRY_SECONDS)
                continue
            if failing:
                log.event(log.INFO, "sweep-recovered", "Staging and freeing work again.")
                _TROUBLE.set(0)
            failing = False
            if left:
                continue
            # Whatever was nudged is not cold before the hot time is over, and is then looked at once.
            if self._nudged.wait(RETRY_SECONDS if self._short else IDLE_SECONDS) and not self._stopped.is_set():
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
        return max(purged, staged, forgotten) >= BATCH

    def stage(self, received_before: float) -> int:
        """Copy instances received before that time (seconds) into staging, durable as one. Returns how many.

        One that can't be copied holds up none of the others; the first such failure is raised when they are staged.
        """
        found = self._jobs.to_stage(self._node, received_before=received_before, keep=self._keeps(), limit=BATCH)
        problems: list[Exception] = []
        chosen = self._choose(found, problems)
        keys: list[tuple[int, str]] = []
        for generation, group in groupby(
            sorted(chosen, key=lambda one: one[0].generation), key=lambda one: one[0].generation
        ):
            try:
                with self._reader.pin(generation) as pin:
                    for row, key in group:
                        try:
                            self._put(row, key, pin.fileno())
                            keys.append((row.instance_id, key))
                        except (StagingError, OSError) as problem:
                            problems.append(problem)
            except SegmentGone:
                self._jobs.forget_segment(self._node, generation)
                self._intake.forgotten(generation)
        if keys:
            reach("sweep.copied")
            self._staging.sync()
            reach("sweep.synced")
            self._jobs.staged(keys, self._clock())
            reach("sweep.staged")
            _STAGED.inc(len(keys))
            self._moved = len(keys)
        if problems:
            raise problems[0]
        return len(found)

    def _keeps(self) -> bool:
        """Whether what is settled is kept now: what is kept for ever always, the rest while there is room."""
        return self._keep_seconds is None or (self._keep_seconds > 0.0 and not self._short)

    def _look_at_room(self) -> None:
        enough = self._roomy_bytes if self._short else self._short_bytes
        short = self._keep_seconds is not None and self._staging.free_bytes() < enough
        if short and not self._short:
            log.event(log.WARNING, "disk-short", "Settled instances are no longer kept: the disk is almost full.")
        elif self._short and not short:
            log.event(log.INFO, "disk-roomy", "There is room again to keep settled instances.")
        self._short = short

    def _choose(self, found: Sequence[Unstaged], problems: list[Exception]) -> list[tuple[Unstaged, str]]:
        """Those there is room for, with their keys, which the job table knows before a file can be there."""
        room = self._staging.free_bytes() - self._leave_free_bytes
        fitting: list[tuple[Unstaged, str]] = []
        for row in found:
            if row.file_length > room:
                left = f"{self._leave_free_bytes} bytes of the disk are left free for the job table"
                problems.append(StagingError(f"staging: {left}"))
                continue
            room -= row.file_length
            fitting.append((row, self._key(row)))
        able = self._jobs.will_stage([(row.instance_id, key) for row, key in fitting]) if fitting else set()
        reach("sweep.announced")
        return [one for one in fitting if one[0].instance_id in able]

    def _put(self, row: Unstaged, key: str, segment: int) -> None:
        """Copy one instance. StagingError."""
        facts = StagedFacts(
            digest=row.digest,
            association_id=row.association_id,
            calling_ae=row.calling_ae,
            called_ae=row.called_ae,
            peer=row.peer,
            received_at=row.received_at,
        )
        self._staging.put(key, segment, row.file_offset, row.file_length, facts)
        _STAGED_BYTES.inc(row.file_length)

    def free(self) -> int:
        """Free every segment that nothing needs any more (the reader quarantines damaged ones). Returns how many."""
        freed = 0
        for generation in self._reader.generations():
            if (
                self._intake.finished(generation)
                and not self._jobs.segment_needed(self._node, generation, self._keeps())
                # The file goes first: a checkpoint without a file is forgotten at start, a file without a
                # checkpoint would be taken in a second time.
                and self._reader.free(generation)
            ):
                reach("sweep.freed")
                self._jobs.forget_segment(self._node, generation)
                self._intake.forgotten(generation)
                _FREED.inc()
                freed += 1
        return freed

    def purge(self) -> int:
        """Delete staged files that were settled longer ago than `keep`, or are only kept on a disk that is short of
        room, and what an attempt to stage left. Returns how many."""
        before = None
        if self._keep_seconds is not None:
            before = self._clock() - (self._keep_seconds if self._keeps() else 0.0)
        rows = self._jobs.purgeable(self._node, settled_before=before, limit=BATCH)
        for _, key in rows:
            reach("sweep.purging")
            self._staging.delete(key)
        if rows:
            reach("sweep.purged")
            self._jobs.purged(rows)
            _PURGED.inc(len(rows))
        return len(rows)

    def forget(self) -> int:
        """Delete rows that have no bytes and were over longer ago than they are to be kept, and associations of the
        log that ended longer ago. Returns how many, of the kind that had more."""
        if self._keep_rows_seconds is None:
            return 0
        before = self._clock() - self._keep_rows_seconds
        gone = self._jobs.forget(settled_before=before, limit=BATCH)
        _FORGOTTEN.inc(gone)
        return max(gone, self._jobs.associations.forget(ended_before=before, limit=BATCH))

    def _key(self, row: Unstaged) -> str:
        received = time.strftime("%Y%m%d", time.gmtime(row.received_at))
        return staged_key(
            self._hash_key,
            study_uid=row.study_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            digest=row.digest,
            date=row.study_date if self._date == "study" else received,
        )

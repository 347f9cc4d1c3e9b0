"""From the log to the job table: every committed record becomes rows, exactly once.

Runs in the relay process as one thread (`run`), after `recover` has read what an earlier life left behind. Receive
processes tell it by datagram how far a segment is durable; it reads to there, parses each head, asks the rules, and
writes instances, deliveries and the checkpoint in one transaction, so a crash at any line replays or has nothing to
replay. An object that can't be parsed is routed by its association and flagged, never lost. With the job table down
it waits and reads nothing; the spool holds what arrives. A table that lacks what it was told (a failover) is
RowsLost, raised by `recover` and `run`: a new life reads the spool from where the table ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from relaypacs import log
from relaypacs.errors import SegmentGone, SpoolCorrupt
from relaypacs.failpoint import reach
from relaypacs.intake.arrival import ArrivalOf, association_ends
from relaypacs.intake.patience import until_answered
from relaypacs.intake.studies import OpenStudies
from relaypacs.intake.takers import Takers
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, AssociationEnd, AtOnce, TakenIn
from relaypacs.model import Checkpoint, EventRecord, ObjectRecord, Record
from relaypacs.spool.reader import SpoolReader
from relaypacs.wake.hints import HintReceiver

GATHER_SECONDS = 0.005
"""After a hint, how long more are gathered into the same transaction: a commit per object costs 2x."""
GATHER_WAITED_SECONDS = 0.001
"""How long where a modality waits for its rows: what comes during a transaction is in the next one anyway."""
GATHER_MOST_SECONDS = 0.02
"""How long they are gathered at most while more and more come: a study's rows cost half in a quarter of the commits."""
SCAN_SECONDS = 5.0
"""How often segments are looked at without a hint; bounds what a lost datagram can delay."""
BATCH_RECORDS = 500
"""Records read, and rows committed, at once; bounds memory and the length of a transaction."""

_INSTANCES = Counter(
    "relaypacs_intake_instances_total", "Spool records turned into rows, by what became of them.", ["as"]
)
_SECONDS = Histogram(
    "relaypacs_intake_delay_seconds",
    "From reception of an object to its rows being committed.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600),
)
_CORRUPT = Counter("relaypacs_spool_damage_total", "Times that bytes of the spool failed their checksum.")


@dataclass(slots=True)
class _Batch:
    """What goes into one transaction."""

    records: int = 0
    begun: dict[str, int] = field(default_factory=dict)
    """How far its segments had been taken in before, in bytes."""
    arrivals: list[Arrival] = field(default_factory=list)
    ends: list[AssociationEnd] = field(default_factory=list)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)

    def add(self, records: Sequence[Record], arrivals: Sequence[Arrival], begun: int, after: Checkpoint) -> None:
        """Add what was read of one segment, from `begun` on."""
        self.records += len(records)
        self.begun.setdefault(after.generation, begun)
        self.arrivals += arrivals
        for record in records:
            if isinstance(record, EventRecord):
                self.ends += association_ends(record)
        self.checkpoints[after.generation] = after


class Intake:
    """The reader of the log. One per node; `run` and `recover` are called by one thread."""

    def __init__(
        self,
        *,
        node: str,
        reader: SpoolReader,
        jobs: JobStore,
        arrival_of: ArrivalOf,
        hints: HintReceiver,
        takers: Takers,
        lease_seconds: float,
        on_rows: Callable[[], None],
        on_poke: Callable[[], None],
        study_quiet_seconds: float = 60.0,
        gather_most_seconds: float = GATHER_MOST_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`takers` get what they have room for, leased for `lease_seconds`, and hear of what else is queued. `on_rows`
        (the sweep) hears of each commit and when all that an earlier life left is read.

        `on_poke`: somebody else changed the job table and poked the hint socket. `gather_most_seconds`: how long rows
        of a stream of objects may wait for more; 0 where a modality waits for them.
        """
        self._node, self._reader, self._jobs, self._arrival_of = node, reader, jobs, arrival_of
        self._hints, self._takers, self._on_rows, self._on_poke = hints, takers, on_rows, on_poke
        self._lease_seconds = lease_seconds
        self._gather_most_seconds = gather_most_seconds
        self._clock = clock
        self._studies = OpenStudies(study_quiet_seconds)
        self._read_to: dict[str, Checkpoint] = {}
        self._taken_in: dict[str, int] = {}
        """How far the job table was told each segment is taken in, in bytes."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def recover(self) -> int:
        """Read everything an earlier life left unread, and forget segments that are gone. Returns records taken in.

        Called once before `run`; blocks (and retries) while the job table is down, until `stop`.
        """
        stored = until_answered(self._stopped, lambda: self._jobs.checkpoints(self._node))
        if stored is None:
            return 0
        present = set(self._reader.generations())
        for generation in stored.keys() - present:
            until_answered(self._stopped, lambda g=generation: self._jobs.forget_segment(self._node, g))  # type: ignore[misc]
        self._read_to = {generation: stored.get(generation, Checkpoint(generation)) for generation in present}
        self._taken_in = {generation: at.end for generation, at in stored.items() if generation in present}
        taken = self._scan()
        # What is finished only now was not yet when the sweep first looked.
        self._on_rows()
        log.event(log.INFO, "intake-recovered", f"{taken} records of the spool taken in at start", records=taken)
        return taken

    def run(self) -> None:
        """Serve hints until `stop`; every `SCAN_SECONDS` look without one."""
        next_scan = time.monotonic() + SCAN_SECONDS
        while not self._stopped.is_set():
            told = self._hints.wait(max(0.0, next_scan - time.monotonic()))
            if not told and time.monotonic() < next_scan:
                self._on_poke()
            if told and not self._stopped.is_set():
                told += self._gather()
            ends: dict[str, int | None] = {}
            for generation, end in sorted(told):
                ends[generation] = end
            self._take(ends)
            if time.monotonic() >= next_scan:
                self._scan()
                next_scan = time.monotonic() + SCAN_SECONDS

    def _gather(self) -> list[tuple[str, int]]:
        """Hints that follow the first ones, until there is a pause, it has been long enough, or a taker has nothing
        to do: then rows at once are worth more than fewer commits."""
        until = time.monotonic() + self._gather_most_seconds
        gathered: list[tuple[str, int]] = []
        while True:
            time.sleep(GATHER_SECONDS if self._gather_most_seconds else GATHER_WAITED_SECONDS)
            more = self._hints.wait(0.0)
            gathered += more
            if not more or time.monotonic() >= until or self._takers.idle():
                return gathered

    def stop(self) -> None:
        """Make `run` return after the transaction in hand; the caller wakes the hint socket."""
        self._stopped.set()

    def finished(self, generation: str) -> bool:
        """Whether everything the segment will ever hold has become rows. Safe to call from another thread.

        Only a proof counts: what can't be read, or not now, is not finished.
        """
        # Sealed is seen first, so a read that then finds nothing has seen all there will be.
        if not self._reader.is_sealed(generation):
            return False
        with self._lock:
            checkpoint = self._read_to.get(generation, Checkpoint(generation))
        return self._is_end(checkpoint)

    def all_read(self) -> bool:
        """Whether everything the spool holds now has become rows. Safe to call from another thread, and does not wait
        for what is being read. OSError."""
        found = self._reader.generations()
        return all(self._is_end(self._read_to.get(generation, Checkpoint(generation))) for generation in found)

    def _is_end(self, checkpoint: Checkpoint) -> bool:
        try:
            return not self._reader.read(checkpoint, committed_end=None, max_records=1)[0]
        except SpoolCorrupt as problem:
            return problem.resume is None
        except (SegmentGone, OSError):
            return False

    def taken_in(self, generation: str) -> int:
        """How far the segment's records have become rows, in bytes, as the job table was told."""
        with self._lock:
            return self._taken_in.get(generation, 0)

    def has_read(self, generation: str, end: int) -> bool:
        """Whether the rows of everything up to byte `end` of the segment are committed. Safe to call from another
        thread; waits for nothing."""
        checkpoint = self._read_to.get(generation)
        # One that was freed had been read to its end.
        return checkpoint.end >= end if checkpoint else generation not in self._reader.generations()

    def forgotten(self, generation: str) -> None:
        """The segment has been freed; nothing of it is read again."""
        with self._lock:
            self._read_to.pop(generation, None)
            self._taken_in.pop(generation, None)

    def _scan(self) -> int:
        return self._take(dict.fromkeys(self._reader.generations()))

    def _take(self, ends: Mapping[str, int | None]) -> int:
        """Take in what is committed of each segment, to its end (bytes) or, for None, as far as it verifies.

        Returns the number of records whose rows were committed.
        """
        taken = 0
        left = dict(ends)
        with self._lock:
            while left and not self._stopped.is_set():
                batch = _Batch()
                for generation, end in tuple(left.items()):
                    if not self._read(generation, end, batch):
                        del left[generation]
                    if batch.records >= BATCH_RECORDS:
                        break
                if batch.records == 0:
                    continue
                if not self._commit(batch):
                    break
                self._taken_in |= {generation: at.end for generation, at in batch.checkpoints.items()}
                taken += batch.records
        return taken

    def _read(self, generation: str, end: int | None, batch: _Batch) -> bool:
        """Add a segment's next records to `batch`. False when it has no more for now."""
        checkpoint = self._read_to.get(generation, Checkpoint(generation))
        if end is not None and checkpoint.end >= end:
            return False
        try:
            records, after = self._reader.read(checkpoint, committed_end=end, max_records=BATCH_RECORDS)
            arrivals = self._arrivals(generation, records)
        except SegmentGone:
            self._read_to.pop(generation, None)
            return False
        except SpoolCorrupt as problem:
            _CORRUPT.inc()
            log.event(
                log.CRITICAL,
                "spool-corrupt",
                f"{problem}; what is valid is delivered, then the segment is quarantined",
                segment=generation,
            )
            if problem.resume is None:
                return False
            self._read_to[generation] = problem.resume
            return True
        except OSError as problem:
            log.event(log.ERROR, "spool-unreadable", f"A segment can't be read, tried again: {problem}")
            return False
        if not records:
            return False
        batch.add(records, arrivals, self._taken_in.get(generation, 0), after)
        return True

    def _arrivals(self, generation: str, records: Sequence[Record]) -> list[Arrival]:
        objects = [record for record in records if isinstance(record, ObjectRecord)]
        if not objects:
            return []
        with self._reader.pin(generation) as pin:
            return [self._arrival_of(record, pin.view) for record in objects]

    def _commit(self, batch: _Batch) -> bool:
        reach("intake.read")
        since: list[tuple[float, float]] = []

        def take_in() -> TakenIn:
            since.append((time.monotonic(), self._clock()))
            return self._jobs.take_in(
                self._node,
                batch.arrivals,
                batch.ends,
                tuple(batch.checkpoints.values()),
                since[-1][1],
                begun=batch.begun,
                at_once=AtOnce(self._takers.room() if batch.arrivals else {}, self._lease_seconds),
            )

        taken_in = until_answered(self._stopped, take_in)
        if taken_in is None:
            return False
        # Before anybody is told: who asks `has_read` then finds it.
        self._read_to.update(batch.checkpoints)
        reach("intake.committed")
        for what, count in (
            ("instance", taken_in.instances),
            ("duplicate", taken_in.duplicates),
            ("dropped", taken_in.dropped),
            ("unrouted", taken_in.unrouted),
            ("conflict", taken_in.conflicts),
        ):
            if count:
                _INSTANCES.labels(what).inc(count)
        self._studies.seen(batch.arrivals)
        now = self._clock()
        for arrival in batch.arrivals:
            _SECONDS.observe(max(0.0, now - arrival.record.meta.received_at))
        if taken_in.claims:
            self._takers.hand_over(taken_in.claims, since[-1])
        # A first try whose answer was lost may have leased something: who looks finds it.
        routed = {name: 1 for arrival in batch.arrivals for name in arrival.route.destinations}
        self._tell(taken_in.queued if len(since) == 1 else routed)
        self._on_rows()  # also of the end of an association alone: it may be the last of its segment
        return True

    def _tell(self, queued: Mapping[str, int]) -> None:
        for destination, count in queued.items():
            if count:
                self._takers.queued(destination)

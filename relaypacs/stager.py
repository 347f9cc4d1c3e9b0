"""Copies instances from the spool to staging, durable and known to the job table when it says so.

The sweep calls it for what outlives the spool, the receipt desk for what a modality waits for; each has its own. To
staging that all nodes share it puts several at once, and tells the job table of those that have ended, together: a
long one holds up none of the others. To a folder it copies one after another, told to the job table before (a killed
process leaves no file that no row names) and made durable by one `sync`. One that can't be copied holds up none of the
others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple

from prometheus_client import Counter

from relaypacs.errors import SegmentGone, StagingError
from relaypacs.failpoint import reach
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Unstaged
from relaypacs.spool.reader import SpoolReader
from relaypacs.staging.keys import staged_key
from relaypacs.staging.protocol import StagedFacts, Staging

TELL_EVERY = 50
TELL_EVERY_SECONDS = 0.5
"""What was put to shared staging is told to the job table so often: slow puts free no segment late."""
LONGEST_SECONDS = 10.0
"""So long `stage` waits for puts to shared staging; those that take longer are gathered by the next."""

_STAGED = Counter("relaypacs_staged_instances_total", "Instances copied from the spool to staging.")
_STAGED_BYTES = Counter("relaypacs_staged_bytes_total", "Bytes copied from the spool to staging.")

Put = tuple[Unstaged, str]
"""An instance and its key."""


class _Going(NamedTuple):
    """A put to shared staging whose end the job table has not been told."""

    row: Unstaged
    key: str
    put: Future[None]


class Stager:
    """For one thread."""

    def __init__(
        self,
        *,
        node: str,
        reader: SpoolReader,
        jobs: JobStore,
        staging: Staging,
        segment_gone: Callable[[str], None],
        hash_key: bytes,
        date: str,
        leave_free_bytes: int = 0,
        shared: bool = False,
        puts_at_once: int = 1,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`segment_gone` is told of segments whose file is not there any more; `date`: `study` or `received`."""
        self._node, self._reader, self._jobs, self._staging = node, reader, jobs, staging
        self._segment_gone, self._hash_key, self._date = segment_gone, hash_key, date
        self._leave_free_bytes, self._shared, self._clock = leave_free_bytes, shared, clock
        self._pool = ThreadPoolExecutor(puts_at_once, "stager")
        self._going: dict[int, _Going] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._untold: list[int] = []
        self._stopping = threading.Event()
        self.staged = 0
        """How many the last `stage` brought there."""

    def stage(self, found: Sequence[Unstaged]) -> list[Exception]:
        """Copy them; what went wrong with which stays behind. JobsError if the job table can't be told.

        In shared staging some may still be on their way when it returns (`going`).
        """
        self.staged = 0
        problems: list[Exception] = []
        if self._shared:
            self.begin(found)
            until = time.monotonic() + LONGEST_SECONDS
            # What is on its way when the node stops has to end, and is told.
            while self._going and (self._stopping.is_set() or time.monotonic() < until):
                problems += [problem for problem in self.told(TELL_EVERY_SECONDS).values() if problem is not None]
        elif chosen := self._announced(found, problems):
            keys = list(self._put_in_turn(chosen, problems))
            if keys:
                reach("sweep.copied")
                self._staging.sync()
                reach("sweep.synced")
                self._tell(keys, found)
        return problems

    def begin(self, found: Iterable[Unstaged], on_end: Callable[[], None] = lambda: None) -> None:
        """Begin to put to shared staging those that are not on their way. `on_end` is called by any thread."""
        for row in found:
            if row.instance_id not in self._going:
                key = self._key(row)
                put = self._pool.submit(self._put_pinned, row, key)
                self._going[row.instance_id] = _Going(row, key, put)

                def ended(_: object, instance_id: int = row.instance_id) -> None:
                    self._ended.put(instance_id)
                    on_end()

                put.add_done_callback(ended)

    def told(self, wait_seconds: float = 0.0) -> dict[int, Exception | None]:
        """What became of puts that have ended, by instance; the job table knows of those that came there.

        Waits for `wait_seconds` at most, and for no more than `TELL_EVERY`. JobsError: they are told the next time.
        """
        until = time.monotonic() + wait_seconds
        with suppress(queue.Empty):
            while len(self._untold) < len(self._going):
                left = until - time.monotonic() if len(self._untold) < TELL_EVERY else 0.0
                self._untold.append(self._ended.get(timeout=max(0.0, left)))
        ended = {instance_id: self._going[instance_id] for instance_id in self._untold}
        outcomes = {instance_id: _problem(one.put) for instance_id, one in ended.items()}
        there = [one for instance_id, one in ended.items() if outcomes[instance_id] is None]
        if there:
            reach("sweep.copied")
            self._tell([(one.row.instance_id, one.key) for one in there], [one.row for one in there])
        self._untold.clear()
        for instance_id, one in ended.items():
            del self._going[instance_id]
            if isinstance(outcomes[instance_id], SegmentGone):
                self._gone(one.row.generation)
                outcomes[instance_id] = None
        return outcomes

    def going(self) -> set[int]:
        """Instances whose puts to shared staging have not ended, or the job table does not know it."""
        return set(self._going)

    def reads(self, generation: str) -> bool:
        """Whether one of those is in that segment. Safe to call from another thread."""
        return any(one.row.generation == generation for one in list(self._going.values()))

    def stop(self) -> None:
        """From another thread: begin no further put."""
        self._stopping.set()

    def _tell(self, keys: Sequence[tuple[int, str]], copied: Sequence[Unstaged]) -> None:
        self._jobs.staged(keys, self._clock(), copied=copied)
        reach("sweep.staged")
        _STAGED.inc(len(keys))
        self.staged += len(keys)

    def _announced(self, found: Sequence[Unstaged], problems: list[Exception]) -> list[Put]:
        """Those there is room for, with their keys, which the job table knows before a file can be there."""
        room = self._staging.free_bytes() - self._leave_free_bytes
        fitting: list[Put] = []
        for row in found:
            if row.file_length > room:
                left = f"{self._leave_free_bytes} bytes of the disk are left free for the job table"
                problems.append(StagingError(f"staging: {left}"))
                continue
            room -= row.file_length
            fitting.append((row, self._key(row)))
        keys = [(row.instance_id, key) for row, key in fitting]
        able = self._jobs.will_stage(keys, node=self._node) if keys else set()
        reach("sweep.announced")
        return [one for one in fitting if one[0].instance_id in able]

    def _put_in_turn(self, chosen: Sequence[Put], problems: list[Exception]) -> Iterator[tuple[int, str]]:
        with ExitStack() as pins:
            segments: dict[str, int] = {}
            for generation in dict.fromkeys(row.generation for row, _ in chosen):
                try:
                    segments[generation] = pins.enter_context(self._reader.pin(generation)).fileno()
                except SegmentGone:
                    self._gone(generation)
            for row, key in chosen:
                if row.generation in segments:
                    try:
                        self._put(row, key, segments[row.generation])
                    except (StagingError, OSError) as problem:
                        problems.append(problem)
                    else:
                        yield row.instance_id, key

    def _put_pinned(self, row: Unstaged, key: str) -> None:
        """Put one instance, in a thread of the pool. StagingError, SegmentGone, OSError."""
        with self._reader.pin(row.generation) as pin:
            self._put(row, key, pin.fileno())

    def _gone(self, generation: str) -> None:
        self._jobs.forget_segment(self._node, generation)
        self._segment_gone(generation)

    def _put(self, row: Unstaged, key: str, segment: int) -> None:
        """Copy one instance. StagingError."""
        if self._stopping.is_set():
            raise StagingError("staging: the node stops")
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

    def _key(self, row: Unstaged) -> str:
        received = time.strftime("%Y%m%d", time.gmtime(row.received_at))
        return staged_key(
            self._hash_key,
            study_uid=row.study_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            digest=row.digest,
            date=row.study_date if self._date == "study" else received,
        )


def _problem(put: Future[None]) -> Exception | None:
    """Why it failed; what is no trouble of spool or staging is raised here: a bug ends the process."""
    problem = put.exception()
    if problem is None or isinstance(problem, StagingError | SegmentGone | OSError):
        return problem
    raise problem

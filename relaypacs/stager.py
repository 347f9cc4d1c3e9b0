"""Copies instances from the spool to staging, durable and known to the job table when it returns.

The sweep calls it for what outlives the spool, the receipt desk for what a modality waits for; each has its own. To
staging that all nodes share it puts several at once and says so as they are done; to a folder one after another, told
to the job table before (a killed process leaves no file that no row names) and made durable by one `sync`. One that
can't be copied holds up none of the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

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

_STAGED = Counter("relaypacs_staged_instances_total", "Instances copied from the spool to staging.")
_STAGED_BYTES = Counter("relaypacs_staged_bytes_total", "Bytes copied from the spool to staging.")

Put = tuple[Unstaged, str]
"""An instance and its key."""


class Stager:
    """For one thread; where staging is shared, `stage` is for any number."""

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
        self._pool = ThreadPoolExecutor(puts_at_once, "stager") if shared else None
        self._stopping = threading.Event()
        self.staged = 0
        """How many the last `stage` brought there."""

    def stage(self, found: Sequence[Unstaged]) -> list[Exception]:
        """Copy them; what went wrong with which stays behind. JobsError if the job table can't be told."""
        self.staged = 0
        problems: list[Exception] = []
        if self._pool is not None:
            done = self._put_at_once(self._pool, found, problems)
            for some in _gathered(done):
                self._tell(some, found)
        elif chosen := self._announced(found, problems):
            keys = list(self._put_in_turn(chosen, problems))
            if keys:
                reach("sweep.copied")
                self._staging.sync()
                reach("sweep.synced")
                self._tell(keys, found)
        return problems

    def stop(self) -> None:
        """From another thread: begin no further put."""
        self._stopping.set()

    def _tell(self, keys: Sequence[tuple[int, str]], copied: Sequence[Unstaged]) -> None:
        if self._shared:
            reach("sweep.copied")
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
            segments = self._pinned((row.generation for row, _ in chosen), pins)
            for row, key in chosen:
                if row.generation in segments:
                    try:
                        self._put(row, key, segments[row.generation])
                    except (StagingError, OSError) as problem:
                        problems.append(problem)
                    else:
                        yield row.instance_id, key

    def _put_at_once(
        self, pool: ThreadPoolExecutor, found: Sequence[Unstaged], problems: list[Exception]
    ) -> Iterator[tuple[int, str]]:
        with ExitStack() as pins:
            segments = self._pinned((row.generation for row in found), pins)
            puts = [
                (row.instance_id, key, pool.submit(self._put, row, key, segments[row.generation]))
                for row in found
                if row.generation in segments
                for key in (self._key(row),)
            ]
            # Whatever happens, nobody reads a segment that is no longer pinned.
            pins.callback(lambda: [one.cancel() or one.exception() for *_, one in puts])
            for instance_id, key, put in puts:
                try:
                    put.result()
                except (StagingError, OSError) as problem:
                    problems.append(problem)
                else:
                    yield instance_id, key

    def _pinned(self, generations: Iterable[str], pins: ExitStack) -> dict[str, int]:
        """Each segment's descriptor, for as long as `pins`; those that are gone are told and left out."""
        segments: dict[str, int] = {}
        for generation in dict.fromkeys(generations):
            try:
                segments[generation] = pins.enter_context(self._reader.pin(generation)).fileno()
            except SegmentGone:
                self._jobs.forget_segment(self._node, generation)
                self._segment_gone(generation)
        return segments

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


def _gathered(done: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    some: list[tuple[int, str]] = []
    since = time.monotonic()
    for one in done:
        some.append(one)
        if len(some) >= TELL_EVERY or time.monotonic() - since > TELL_EVERY_SECONDS:
            yield some
            some, since = [], time.monotonic()
    if some:
        yield some

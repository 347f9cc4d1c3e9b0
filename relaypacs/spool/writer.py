"""The writing end of the spool: objects stream in, and are durable when `commit` returns.

One `SpoolWriter` per receive process, used by many threads. An object leases a segment from a last-in-first-out pool
and gives it back, so idle associations hold none; small ones share one, and its sync (`group`). Never an answer before
the `fdatasync`.
A full disk is SpoolFull and changes nothing. A failed header or sync is SpoolError: the segment is retired with its
committed end recorded, never synced again, and `refusal` says why until a fresh segment could be synced.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.model import Committed, ObjectMeta
from relaypacs.spool.append import Append
from relaypacs.spool.commit import commit_together
from relaypacs.spool.disk import FULL, Disk
from relaypacs.spool.group import GroupCommit
from relaypacs.spool.records import begin_event, begin_object, event_payload
from relaypacs.spool.segment import GROW_LEAST_BYTES, GROW_MOST_BYTES, Segment, free_files, open_segment, prepare

HELD_BYTES = 96 << 10
"""Dataset bytes held as copies until the commit. More is written from where it is, as it comes: copying 128 KiB and
more costs a mapping each time."""
IDLE_SEGMENTS = 64
"""Segments kept open and unused, at most; it bounds file descriptors."""
IDLE_SECONDS = 10.0
"""A segment unused for so long is sealed, so that it can be freed."""
IDLE_LOOKS = 10
"""How often in that time such segments are looked for."""
PROBE_SECONDS = 1.0
"""How often, after a failure, the disk is tried again."""
ROOMY_BYTES = 1 << 30
ROOMY_SECONDS = 0.02
"""With so many bytes above the mark, it isn't looked at again for so long."""


class SpoolWriter:
    """Appends objects and events to the segments in `folder`; thread-safe."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        min_free_bytes: int,
        max_object_bytes: int,
        recycle: bool,
        durable: bool,
        on_commit: Callable[[Committed], None],
        idle_seconds: float = IDLE_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
        held_bytes: int = HELD_BYTES,
        disk: Disk | None = None,
    ) -> None:
        """`durable=False` leaves out every sync: for benchmarks. `on_commit` is called in a committing
        thread with the last record of a group."""
        self._folder, self._disk = folder, disk or Disk()
        self._segment_bytes, self._min_free_bytes = segment_bytes, min_free_bytes
        self._recycle, self._on_commit = recycle, on_commit
        self.max_object_bytes, self.durable, self.held_bytes = max_object_bytes, durable, held_bytes
        self._idle_seconds, self._probe_seconds = idle_seconds, probe_seconds
        self._lock = threading.Lock()
        self._idle: deque[Segment] = deque()
        """The pool, the last used at its right end; taken and given there without a lock: a deque's ends are atomic."""
        self._next_look = 0.0
        self._unmarked: list[Segment] = []
        self._trouble = ""
        self._next_probe = 0.0
        self._roomy_until = 0.0
        self._closed = False
        self.together = GroupCommit(partial(commit_together, self))
        """Where records that are still whole in memory are committed."""
        try:
            prepare(self._disk, folder)
        except OSError as problem:
            raise SpoolError(f"the spool's folders can't be made: {problem.strerror}") from problem

    def begin(self, meta: ObjectMeta) -> Append:
        """Start an object. SpoolFull below the free-space mark; SpoolError if the disk fails or `meta` doesn't fit."""
        if self._closed:
            raise SpoolError("the spool is closed")
        if self._trouble and (refusal := self._trouble_now()):
            raise SpoolError(refusal)
        if time.monotonic() >= self._roomy_until:
            self.check_space()
        return Append(self, begin_object(meta), self.max_object_bytes)

    def append_event(self, kind: str, time: float, body: Mapping[str, object]) -> Committed:
        """Write an event (`time` in seconds since the epoch, `body` of JSON values), durable on return.

        Not refused below the free-space mark: the mark is there to leave room for it. SpoolError, SpoolFull.
        """
        payload = event_payload(kind, time, body)
        if self._closed:
            raise SpoolError("the spool is closed")
        append = Append(self, begin_event(kind, time), len(payload))
        append.write((payload,))
        return append.commit()

    def refusal(self) -> str | None:
        """Why a new object would be refused now, in one sentence, or None. Tries a failed disk again, and makes room
        by deleting segments kept for reuse."""
        self._seal_idle(time.monotonic())
        if trouble := self._trouble_now():
            return trouble
        try:
            self.check_space()
        except SpoolError as problem:
            return str(problem)
        return None

    def close(self) -> None:
        """Seal every idle segment; what was begun can still end, and its segment is then
        sealed. Nothing can begin any more."""
        self._closed = True
        self._seal_idle(time.monotonic())

    # What follows is for `append` and `commit`.

    def lease(self) -> Segment:
        """A segment to append to, with room that needs no metadata to be written."""
        try:
            segment = self._idle.pop()
        except IndexError:
            try:
                segment = self._open()
            except OSError as problem:
                raise self._not_opened(problem) from problem
        if segment.solid - segment.offset < GROW_LEAST_BYTES:
            self.grow(segment, GROW_LEAST_BYTES)
        return segment

    def grow(self, segment: Segment, room: int) -> None:
        """Give a leased segment `room` bytes that need no metadata to be written; fewer at its end, or without space.
        SpoolError if the disk failed: then the lease has ended."""
        if not self.durable:
            return
        try:
            # Near the mark little at a time: many segments may grow at once.
            most = GROW_MOST_BYTES if self._roomy_until else GROW_LEAST_BYTES
            segment.grow(self._segment_bytes, most, room=room)
        except OSError as problem:
            raise self.retire(segment, problem) from problem

    def give_back(self, segment: Segment) -> None:
        """A lease ends and the segment is sound: for the next object, or sealed at its size."""
        now = segment.idle_since = time.monotonic()
        if segment.offset >= self._segment_bytes:
            segment.seal()
        else:
            self._idle.append(segment)
        if now >= self._next_look or self._closed or len(self._idle) > IDLE_SEGMENTS:
            self._seal_idle(now)

    def failed(self, segment: Segment, problem: OSError) -> SpoolError:
        """A payload could not be written. The error to raise: SpoolFull leaves the segment in use."""
        if problem.errno in FULL:
            self.give_back(segment)
            with contextlib.suppress(OSError):
                self._make_room()
            return SpoolFull("the spool's file system is full")
        return self.retire(segment, problem)

    def retire(self, segment: Segment, problem: OSError) -> SpoolError:
        """A header or sync failed: what the kernel holds of the segment can't be trusted any more."""
        segment.unmark()
        said = f"the spool's disk failed: {problem.strerror or problem}"
        with self._lock:
            self._trouble, self._next_probe = said, time.monotonic() + self._probe_seconds
        self._record_retired([segment])
        return SpoolError(said)

    def forsake(self, segment: Segment) -> None:
        """A lease ends in something that was no error of the disk: nobody knows what was written behind the segment's
        last record, so nothing is any more."""
        self._record_retired([segment])

    def committed(self, segment: Segment, last: Committed) -> None:
        """The segment's records are durable up to and with `last`."""
        self.give_back(segment)
        self._on_commit(last)

    def check_space(self) -> None:
        """SpoolFull below the free-space mark."""
        now = time.monotonic()
        if now < self._roomy_until:
            return
        try:
            over = self._disk.free_bytes(self._folder) - self._min_free_bytes
            if over >= 0:
                self._roomy_until = now + ROOMY_SECONDS if over > ROOMY_BYTES else 0.0
                return
            self._make_room()
            free = self._disk.free_bytes(self._folder)
        except OSError as problem:
            raise SpoolError(f"the spool's disk failed: {problem.strerror or problem}") from problem
        if free < self._min_free_bytes:
            raise SpoolFull(f"{free} bytes are free for the spool, below its mark of {self._min_free_bytes}")

    def _not_opened(self, problem: OSError) -> SpoolError:
        if problem.errno in FULL:
            with contextlib.suppress(OSError):
                self._make_room()
            return SpoolFull("the spool's file system is full")
        said = f"the spool's disk failed: {problem.strerror or problem}"
        with self._lock:
            self._trouble, self._next_probe = said, time.monotonic() + self._probe_seconds
        return SpoolError(said)

    def _make_room(self) -> None:
        """Delete the segments kept for reuse: their space is wanted now."""
        for path in free_files(self._folder):
            self._disk.unlink(path)

    def _open(self) -> Segment:
        prepare(self._disk, self._folder)  # somebody may have tidied up
        return open_segment(
            self._disk,
            self._folder,
            recycle=self._recycle,
            segment_bytes=self._segment_bytes,
            durable=self.durable,
            now=time.time(),
        )

    def _trouble_now(self) -> str:
        """What is wrong with the disk, "" if nothing; at most once a second it is tried with a fresh segment."""
        with self._lock:
            now = time.monotonic()
            if not self._trouble or now < self._next_probe or self._closed:
                return self._trouble
            self._next_probe = now + self._probe_seconds
            unmarked, self._unmarked = self._unmarked, []
        try:
            self._record_retired(unmarked)
            segment = self._open()
            try:
                grown = segment.grow(self._segment_bytes)
            except OSError:
                segment.seal()
                raise
        except OSError:
            return self._trouble
        if not grown:  # nothing was synced, so nothing is known
            segment.seal()
            return self._trouble
        with self._lock:
            self._trouble = ""
        self.give_back(segment)
        return ""

    def _record_retired(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            try:
                segment.retire()
            except OSError:
                # Its lock stays held, so no reader takes it for sealed; tried again with the next probe.
                with self._lock:
                    self._unmarked.append(segment)

    def _seal_idle(self, now: float) -> None:
        """Seal the segments that have been idle for long, or are too many; all, when the spool is closed."""
        self._next_look = now + self._idle_seconds / IDLE_LOOKS
        before = now - self._idle_seconds
        with self._lock:
            # Meanwhile others take from the right end and add to it, so the left one may be gone, or be a younger one.
            old = []
            with contextlib.suppress(IndexError):
                while self._closed or self._idle[0].idle_since < before or len(self._idle) > IDLE_SEGMENTS:
                    old.append(self._idle.popleft())
        for segment in old:
            segment.seal()

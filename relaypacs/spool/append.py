"""One object (or event) on its way into a segment, by one thread.

Made by `SpoolWriter.begin`, driven by the reception lane: `write` per received chunk, then `commit` with the last one,
or `abandon`. Less than `held_bytes`, and what comes with the commit, is held until then and shares its `fdatasync` with
others (`group`). More leases a segment and is written as it comes, at most one system call per chunk; at commit the
rest with the end mark, then the header page, then one `fdatasync`. Only whole pages are written, so that no page of a
recycled file is read first. It ends with `commit`, `abandon` or the first error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crc32c import crc32c

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.failpoint import reach
from relaypacs.model import Committed
from relaypacs.spool.commit import commit_alone, split
from relaypacs.spool.format import PAGE, Begun
from relaypacs.spool.group import Whole
from relaypacs.spool.segment import Segment

if TYPE_CHECKING:
    from relaypacs.spool.writer import SpoolWriter

HELD_PIECES = 256
"""Pieces held or written at most, whatever their size: one call takes no more than 1024."""
LAST_BYTES = 512 << 10
"""What `commit` is given is written with the record's end, in the same call, up to so much."""
START_EVERY_BYTES = 1 << 20
"""How much of an object is written before the disk is set to work on it."""
SPACE_EVERY_BYTES = 16 << 20
"""How much of an object is written between two looks at the free space, where the file need not grow for it."""


class Append:
    """One object being written."""

    __slots__ = (
        "_at",
        "_begun",
        "_crc",
        "_first",
        "_held",
        "_held_bytes",
        "_limit",
        "_next_look",
        "_over",
        "_segment",
        "_started",
        "_writer",
        "dataset_length",
    )

    def __init__(self, writer: SpoolWriter, begun: Begun, limit: int) -> None:
        self._writer, self._begun, self._limit = writer, begun, limit
        self._segment: Segment | None = None
        self._over = False
        self.dataset_length = 0
        """Bytes of the dataset so far."""
        self._crc = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        # Of a leased segment, set with it:
        self._at: int
        self._started: int
        self._next_look: int
        self._first: bytes

    def write(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Append dataset bytes in order; none is looked at after the return. SpoolFull over the limit or without
        space, SpoolError; then it is over."""
        if self._over:
            raise SpoolError("the object has already ended")
        if len(fragments) >= HELD_PIECES:
            fragments = (b"".join(fragments),)
        self._count(fragments)
        if self._held_bytes < self._writer.held_bytes and len(self._held) + len(fragments) < HELD_PIECES:
            self._held += map(bytes, fragments)  # a copy of views, the same object of bytes
        else:
            self._flush(fragments)

    def _count(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Add to lengths and checksum. SpoolFull over the limit; then it is over."""
        length, crc = 0, self._crc
        for fragment in fragments:
            length += len(fragment)
            crc = crc32c(fragment, crc, False)  # too short to be worth a switch of threads
        self._crc = crc
        self.dataset_length += length
        self._held_bytes += length
        if self.dataset_length > self._limit:
            self.abandon()
            raise SpoolFull(f"the object is over the limit of {self._limit} bytes")

    def _flush(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Write the whole pages of what is held with `fragments` behind it, and hold the rest."""
        held = [*self._held, *fragments]
        if len(held) >= 2 * HELD_PIECES:
            held = [b"".join(held)]
        segment = self._segment
        if segment is None:
            room = PAGE - self._begun.payload_offset
            if self._held_bytes < room + PAGE:
                self._held = [b"".join(held)]
                return
            # The first page is the header's: its share of the dataset waits for the commit.
            segment = self._lease()
            self._first, held = split(held, room)
            self._held_bytes -= room
        whole = self._held_bytes & -PAGE
        rest = self._held_bytes - whole
        tail = b""
        while rest > len(tail):
            last = held.pop()
            cut = max(0, len(last) - (rest - len(tail)))
            tail = bytes(last[cut:]) + tail
            if cut:
                held.append(memoryview(last)[:cut])
        self._held, self._held_bytes = [tail], rest
        if not whole:
            return
        try:
            segment.write(held, self._at)
            self._at += whole
            if self._at - self._started >= START_EVERY_BYTES:
                segment.start_writing(self._started, self._at)
                self._started = self._at
            reach("append.mid-dataset")
            if self.dataset_length >= self._next_look or self._at > segment.solid:
                self._next_look = self.dataset_length + SPACE_EVERY_BYTES
                self._writer.check_space()
        except OSError as problem:
            self._segment, self._over = None, True
            raise self._writer.failed(segment, problem) from problem
        except SpoolError:
            self.abandon()
            raise

    def _lease(self) -> Segment:
        try:
            self._segment = segment = self._writer.lease()
        except SpoolError:
            self._over = True
            raise
        self._at = self._started = segment.offset + PAGE
        self._next_look = SPACE_EVERY_BYTES
        return segment

    def commit(self, last: Sequence[bytes | memoryview] = ()) -> Committed:
        """Make the record durable, with `last` as its dataset's end: as `write`, but never copied where it is small.

        SpoolFull if there was no space for it; SpoolError if the disk failed.
        """
        segment, record = self.finish(last)
        if segment is None:
            return self._writer.together.commit(record)
        return commit_alone(self._writer, segment, record, self._first, self._at)

    def finish(self, last: Sequence[bytes | memoryview] = ()) -> tuple[Segment | None, Whole]:
        """Nothing more is written: the leased segment, if there is one, and what is left to commit. For `commit`."""
        if self._over:
            raise SpoolError("the object has already ended")
        if len(last) + len(self._held) >= HELD_PIECES or sum(map(len, last)) > LAST_BYTES:
            self.write(last)
            last = ()
        self._count(last)
        self._over = True
        segment, self._segment = self._segment, None
        return segment, Whole(self._begun, (*self._held, *last), self.dataset_length, self._crc)

    def abandon(self) -> None:
        """Forget the object; harmless after its end. The next record overwrites what it wrote."""
        self._over = True
        segment, self._segment = self._segment, None
        if segment is not None:
            self._writer.give_back(segment)

"""One object (or event) on its way into a segment, by one thread.

Made by `SpoolWriter.begin`, driven by the reception lane: `write` per received chunk, then `commit` or `abandon`. At
most one system call per chunk; at commit the rest with the end mark, then the header page, then one `fdatasync`. Only
whole pages are written, so that no page of a recycled file is read first; less than 96 KiB is copied and held. It ends
with `commit`, `abandon` or the first error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crc32c import crc32c

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.failpoint import reach
from relaypacs.model import Committed
from relaypacs.spool.format import PAGE, Begun, end_header, pad
from relaypacs.spool.segment import Segment

if TYPE_CHECKING:
    from relaypacs.spool.writer import SpoolWriter

HELD_BYTES = 96 << 10
"""Dataset bytes held as copies: a small object takes one call for its data and one for its header. More is written from
where it is (copying 128 KiB and more costs a mapping each time)."""
HELD_PIECES = 256
"""Pieces held or written at most, whatever their size: one call takes no more than 1024."""
SPACE_EVERY_BYTES = 16 << 20
"""How much of an object is written between two looks at the free space."""


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
        "_room",
        "_segment",
        "_writer",
        "dataset_length",
    )

    def __init__(self, writer: SpoolWriter, segment: Segment, begun: Begun, limit: int) -> None:
        self._writer, self._begun, self._limit = writer, begun, limit
        self._segment: Segment | None = segment
        self.dataset_length = 0
        """Bytes of the dataset so far."""
        self._crc = 0
        self._first = b""
        self._room = PAGE - begun.payload_offset
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._at = segment.offset + PAGE
        self._next_look = SPACE_EVERY_BYTES

    def write(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Append dataset bytes in order; none is looked at after the return. SpoolFull over the limit or without
        space, SpoolError; then it is over."""
        segment = self._open_segment()
        if len(fragments) >= HELD_PIECES:
            fragments = (b"".join(fragments),)
        length, crc = 0, self._crc
        for fragment in fragments:
            length += len(fragment)
            crc = crc32c(fragment, crc)
        self._crc = crc
        self.dataset_length += length
        if self.dataset_length > self._limit:
            self.abandon()
            raise SpoolFull(f"the object is over the limit of {self._limit} bytes")
        if len(self._first) < self._room:
            fragments = self._to_first_page(fragments)
            length = sum(map(len, fragments))
        self._held_bytes += length
        if self._held_bytes < HELD_BYTES and len(self._held) + len(fragments) < HELD_PIECES:
            self._held += map(bytes, fragments)  # a copy of views, the same object of bytes
        else:
            self._flush(segment, fragments)

    def _to_first_page(self, fragments: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
        """The first page is the header's: its share of the dataset waits for the commit. Returns the rest."""
        rest: list[bytes | memoryview] = []
        for fragment in fragments:
            missing = self._room - len(self._first)
            if missing:
                self._first += fragment[:missing]
            if missing < len(fragment):
                rest.append(memoryview(fragment)[missing:] if missing else fragment)
        return rest

    def _flush(self, segment: Segment, fragments: Sequence[bytes | memoryview]) -> None:
        """Write the whole pages of what is held with `fragments` behind it, and hold the rest."""
        held = [*self._held, *fragments]
        if len(held) >= 2 * HELD_PIECES:
            held = [b"".join(held)]
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
            reach("append.mid-dataset")
            if self.dataset_length >= self._next_look:
                self._next_look = self.dataset_length + SPACE_EVERY_BYTES
                self._writer.check_space()
        except OSError as problem:
            self._segment = None
            raise self._writer.failed(segment, problem) from problem
        except SpoolError:
            self.abandon()
            raise

    def commit(self) -> Committed:
        """Make the record durable. SpoolFull if there was no space for its end; SpoolError if the disk failed."""
        segment = self._open_segment()
        begun = self._begun
        length = begun.payload_offset + self.dataset_length
        header, chain = end_header(
            begun, previous=segment.chain, payload_length=self.dataset_length, payload_crc32c=self._crc
        )
        filler = pad(length)
        end = segment.offset + length + len(filler)
        last: tuple[bytes | memoryview, ...]
        if self._held_bytes:
            first, last = header + self._first, (*self._held, filler, segment.end_mark)
        else:
            first, last = header + self._first + filler, (segment.end_mark,)
        self._segment = None
        reach("append.commit")
        try:
            segment.write(last, self._at)
        except OSError as problem:
            raise self._writer.failed(segment, problem) from problem
        try:
            segment.write((first,), segment.offset)
            if self._writer.durable:
                segment.sync(end + PAGE)
        except OSError as problem:
            raise self._writer.retire(segment, problem) from problem
        reach("append.synced")
        return self._writer.committed(segment, end, chain)

    def abandon(self) -> None:
        """Forget the object; harmless after its end. The next record overwrites what it wrote."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._writer.give_back(segment)

    def _open_segment(self) -> Segment:
        if self._segment is None:
            raise SpoolError("the object has already ended")
        return self._segment

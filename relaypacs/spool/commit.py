"""Makes records durable in a segment: one whose payload was streamed, or a group in one write; then one `fdatasync`.

Called by `append` and `writer`, in the thread that leads. Order: payload and end mark, header, sync, answer. Within the
blocks a file already has, a group is written at once: its checksums tell a torn one, `since` that none of it was
acknowledged. After a failed header or sync the segment is retired and its place never used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from relaypacs.errors import SpoolError
from relaypacs.failpoint import reach
from relaypacs.model import Committed
from relaypacs.spool.format import PAGE, end_header, pad
from relaypacs.spool.group import Whole
from relaypacs.spool.segment import Segment

if TYPE_CHECKING:
    from relaypacs.spool.writer import SpoolWriter


def commit_together(writer: SpoolWriter, group: Sequence[Whole]) -> None:
    """Make a group durable, and set what came of each record."""
    try:
        segment = writer.lease()
    except SpoolError as problem:
        _refuse(group, problem)
        return
    try:
        last = _write_group(writer, segment, group)
    except BaseException:
        writer.forsake(segment)
        raise
    if last is not None:
        writer.committed(segment, last)
    elif group[0].error is None:
        # A write could lack space, or leave a header without its payload: one by one, in the careful order.
        writer.give_back(segment)
        for record in group:
            _commit_one(writer, record)


def _write_group(writer: SpoolWriter, segment: Segment, group: Sequence[Whole]) -> Committed | None:
    """The last record's place. None where there was no room for all, or with `error` set, and the lease ended."""
    parts: list[bytes | memoryview] = []
    places = []
    at, chain = segment.offset, segment.chain
    for number, record in enumerate(group, segment.number):
        begun, length = record.begun, record.length
        header, chain = end_header(
            begun,
            generation=segment.stamp,
            number=number,
            since=segment.number,
            previous=chain,
            payload_length=length,
            payload_crc32c=record.crc32c,
        )
        length += len(header)
        filler = pad(length)
        parts += (memoryview(header), *record.pieces, filler)
        start, at = at, at + length + len(filler)
        places.append(Committed(segment.generation, number, start, at))
    end = at + PAGE
    if end > segment.solid:
        try:
            writer.grow(segment, end - segment.offset)
        except SpoolError as problem:
            _refuse(group, problem)
            return None
    if end > segment.solid:
        return None
    parts.append(segment.end_mark)
    reach("append.commit")
    try:
        segment.write(parts, segment.offset)
        if writer.durable:
            segment.sync(end)
    except OSError as problem:
        _refuse(group, writer.retire(segment, problem))
        return None
    reach("append.synced")
    # Before anybody is told: what follows may fail, and a segment is then retired where it has got to.
    segment.advance(at, chain, len(places))
    for record, place in zip(group, places, strict=True):
        record.at = place
    return places[-1]


def _refuse(group: Sequence[Whole], problem: SpoolError) -> None:
    for record in group:
        record.error = problem


def _commit_one(writer: SpoolWriter, record: Whole) -> None:
    try:
        segment = writer.lease()
        first, record.pieces = split(record.pieces, PAGE - record.begun.payload_offset)
        record.at = commit_alone(writer, segment, record, first, segment.offset + PAGE)
    except SpoolError as problem:
        record.error = problem


def commit_alone(writer: SpoolWriter, segment: Segment, record: Whole, first: bytes, at: int) -> Committed:
    """Make one record durable: `first` of its payload goes behind its header, what is left of it to byte `at`.

    SpoolFull if there is no space for its end; SpoolError if the disk failed.
    """
    try:
        committed = _write_alone(writer, segment, record, first, at)
    except SpoolError:  # and the lease has ended
        raise
    except BaseException:
        writer.forsake(segment)
        raise
    writer.committed(segment, committed)
    return committed


def _write_alone(writer: SpoolWriter, segment: Segment, record: Whole, first: bytes, at: int) -> Committed:
    number = segment.number
    header, chain = end_header(
        record.begun,
        generation=segment.stamp,
        number=number,
        since=number,
        previous=segment.chain,
        payload_length=record.length,
        payload_crc32c=record.crc32c,
    )
    length = len(header) + record.length
    filler = pad(length)
    end = segment.offset + length + len(filler)
    page: list[bytes | memoryview] = [memoryview(header), first]
    behind = [*record.pieces, filler, segment.end_mark]
    if length <= PAGE:
        page, behind = [*page, filler], [segment.end_mark]
    reach("append.commit")
    try:
        segment.write(behind, at)
    except OSError as problem:
        raise writer.failed(segment, problem) from problem
    try:
        segment.write(page, segment.offset)
        if writer.durable:
            segment.sync(end + PAGE)
    except OSError as problem:
        raise writer.retire(segment, problem) from problem
    reach("append.synced")
    committed = Committed(segment.generation, segment.number, segment.offset, end)
    segment.advance(end, chain, 1)
    return committed


def split(pieces: Sequence[bytes | memoryview], room: int) -> tuple[bytes, list[bytes | memoryview]]:
    """The first `room` bytes of `pieces` as one, and what is behind them."""
    first = b""
    rest: list[bytes | memoryview] = []
    for piece in pieces:
        missing = room - len(first)
        if missing:
            first += piece[:missing]
        if missing < len(piece):
            rest.append(memoryview(piece)[missing:] if missing else piece)
    return first, rest

"""What a segment's bytes hold: the committed records, then a clean end, a torn tail or corruption. Pure.

Called by `reader` (through `pread`) and by the write simulator (over bytes in memory). A record counts only if its
header's chain CRC, generation, number and predecessor are right, all its bytes are there, and, where asked, its
payload's CRC and padding are. Behind the first that doesn't count: a later group means that acknowledged bytes were
damaged (corrupt); nothing of a later group means the crash cut it (torn: never acknowledged, or the last of all).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from crc32c import crc32c

from relaypacs.model import Checkpoint, Record
from relaypacs.spool.format import HEADER_BYTES, PAGE, Header, align, decode_end, decode_header, pad
from relaypacs.spool.records import MAX_EVENT_BYTES, is_event, to_record

ReadAt = Callable[[int, int], bytes]
"""(offset, length) in bytes -> what the segment holds there, shorter at its end."""

_CHUNK = 1 << 20


class Ending(Enum):
    """Why a scan stopped."""

    MORE = "more"
    """`max_records` were found; there may be others."""
    CLEAN = "clean"
    """An end mark or the end of the file, or the byte the scan was asked to read to."""
    SEALED = "sealed"
    """The end mark of a sealed segment: there is nothing more and never will be."""
    TORN = "torn"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class Scan:
    """Records in order, the checkpoint behind the last of them, and how it ended.

    `problem` is a sentence for a torn or corrupt end; `resume` where the valid rest starts, if any: behind damage, or
    behind a record of the last group, of which nobody can say whether it was acknowledged.
    """

    records: list[Record]
    checkpoint: Checkpoint
    ending: Ending
    problem: str = ""
    resume: Checkpoint | None = None


def scan(
    read_at: ReadAt,
    checkpoint: Checkpoint,
    *,
    size: int,
    stop: int | None = None,
    verify_payload: bool = True,
    max_records: int = 1 << 62,
    look_behind: bool = True,
) -> Scan:
    """Read a segment of `size` bytes from `checkpoint` on.

    `stop`: the byte that is known to be a record's durable end; falling short of it is corruption. `look_behind`:
    whether to search behind a clean open end mark too (only a segment nobody writes any more needs that).
    """
    records: list[Record] = []
    at, number, chain = checkpoint.end, checkpoint.number, checkpoint.chain
    problem = ""
    page = b""
    while stop is None or at < stop:
        if len(records) >= max_records:
            return Scan(records, Checkpoint(checkpoint.generation, at, number, chain), Ending.MORE)
        page = read_at(at, PAGE) if at + PAGE <= size else b""
        header = decode_header(page)
        here = Checkpoint(checkpoint.generation, at, number, chain)
        found = _check(
            read_at, header, here, size=size if stop is None else min(stop, size), verify_payload=verify_payload
        )
        if isinstance(found, str):
            problem = found
            break
        assert header is not None
        records.append(found)
        at, number, chain = at + header.length, number + 1, header.chain
    reached = Checkpoint(checkpoint.generation, at, number, chain)
    if stop is not None and at >= stop:
        return Scan(records, reached, Ending.CLEAN)
    mark = decode_end(page)
    if mark is not None and mark.generation == checkpoint.generation:
        if mark.records == number and stop is None:
            return Scan(records, reached, Ending.SEALED)
        if mark.records is None and stop is None and not look_behind:
            return Scan(records, reached, Ending.CLEAN)
    resume, durable = find_successor(read_at, reached, size=size)
    where = f"segment {checkpoint.generation}, record {number} at byte {at}"
    if durable:
        return Scan(records, reached, Ending.CORRUPT, f"{where}: {problem}, and valid records follow", resume)
    if stop is not None:
        return Scan(records, reached, Ending.CORRUPT, f"{where}: {problem}, though it was durable", resume)
    if resume is not None and look_behind:
        return Scan(records, reached, Ending.TORN, f"{where}: {problem}", resume)
    if (mark is not None and mark.generation == checkpoint.generation) or at >= size:
        return Scan(records, reached, Ending.CLEAN)
    return Scan(records, reached, Ending.TORN, f"{where}: {problem}")


def _check(
    read_at: ReadAt, header: Header | None, here: Checkpoint, *, size: int, verify_payload: bool
) -> Record | str:
    """The record at `here`, or what is wrong with it."""
    if header is None:
        return "its header fails its checksum"
    if header.generation != here.generation:
        return "its header is of an earlier life of the file"
    if header.number != here.number or header.previous != here.chain:
        return "its header doesn't follow the record before"
    end = here.end + HEADER_BYTES + header.file_length
    if here.end + header.length > size:
        return "it is cut short"
    event = is_event(header)
    if event and header.payload_length > MAX_EVENT_BYTES:
        return "its event is over the limit"
    payload_at = here.end + HEADER_BYTES + header.head_length
    payload = read_at(payload_at, header.payload_length) if event else b""
    if verify_payload or event:
        if _crc(read_at, payload_at, header.payload_length) != header.payload_crc32c:
            return "its payload fails its checksum"
        if read_at(end, align(end, PAGE) - end) != pad(end):
            return "its padding is damaged"
    try:
        return to_record(header, here.end, payload)
    except (KeyError, TypeError, ValueError):
        return "its header's fields are not those of format v1"


def _crc(read_at: ReadAt, at: int, length: int) -> int:
    crc = 0
    for start in range(0, length, _CHUNK):
        crc = crc32c(read_at(at + start, min(_CHUNK, length - start)), crc)
    return crc


def find_successor(read_at: ReadAt, reached: Checkpoint, *, size: int) -> tuple[Checkpoint | None, bool]:
    """What follows the record that should be at `reached` but doesn't count: the first valid header or sealed end mark
    of the same generation with a later number, before `size` bytes; and whether some such proves that it was durable.

    A group is written only after the one before was durable; its records say by `since` where it began.
    """
    token = reached.generation.encode("ascii")
    first: Checkpoint | None = None
    for start in range(reached.end, size, _CHUNK):
        chunk = read_at(start, min(_CHUNK, size - start))
        found = chunk.find(token)
        while found >= 0:
            page_at = found & -PAGE
            page = chunk[page_at : page_at + PAGE]
            header, at = decode_header(page), start + page_at
            if header is not None and header.generation == reached.generation and header.number > reached.number:
                first = first or Checkpoint(reached.generation, at, header.number, header.previous)
                if header.since > reached.number:
                    return first, True
            mark = decode_end(page)
            if mark is not None and mark.generation == reached.generation and (mark.records or 0) > reached.number:
                return first or Checkpoint(reached.generation, at, mark.records or 0, 0), True
            found = chunk.find(token, page_at + PAGE)
    return first, False

"""Looking at a spool folder without touching it: for people, on a live or a dead node.

Called by `relaypacs spool`, and by the sidecar for what intake has not read yet. Nothing is written, synced, locked for
long or set aside; what is found is what the files hold now. On a live node the newest records may not be durable yet.
Damage is a value here, not an error: walking goes on behind it. OSError where a file can't be read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from relaypacs.model import Checkpoint, EventRecord, ObjectRecord, Record
from relaypacs.spool.disk import Disk
from relaypacs.spool.recover import Ending, scan
from relaypacs.spool.segment import QUARANTINE, RETIRED_SUFFIX, SEGMENTS, SUFFIX, committed_end_in

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that fail their checksum, and what is wrong in a sentence. `lost` is False for a mere torn tail: it was
    never acknowledged."""

    problem: str
    lost: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a segment holds. `state`: open (a process appends to it), sealed, retired (its disk failed)."""

    generation: str
    place: str
    state: str
    size_bytes: int
    objects: int
    events: int
    dataset_bytes: int
    oldest: float | None
    """Reception time of the first object, seconds since the epoch."""
    damage: tuple[Damage, ...]


def segment_files(folder: Path) -> list[Path]:
    """Every segment file of a spool folder, oldest first, then the quarantined ones."""
    found: list[Path] = []
    for place in (SEGMENTS, QUARANTINE):
        if (folder / place).is_dir():
            found += sorted(path for path in (folder / place).iterdir() if path.suffix == SUFFIX)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    disk = Disk()
    fd = disk.open(path, writable=False)
    try:
        yield fd
    finally:
        disk.close(fd)


def _is_open(fd: int) -> bool:
    return not Disk().lock(fd, shared=True)


def _still(path: Path, fd: int) -> bool:
    """Whether the open file still has that name: a live node frees and reuses segments under our eyes."""
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def walk(path: Path, *, verify: bool = True) -> Iterator[Record | Damage]:
    """The records of a segment file in order, with damage where it is. `verify`: payloads and padding too."""
    disk = Disk()
    with _opened(path) as fd:
        size = disk.size(fd)
        marker = path.with_suffix(RETIRED_SUFFIX)
        if marker.exists():
            size = min(size, committed_end_in(marker))
        checkpoint = Checkpoint(path.stem)
        live = _is_open(fd)
        while True:
            found = scan(
                lambda at, length: disk.read(fd, min(length, max(0, size - at)), at),
                checkpoint,
                size=size,
                verify_payload=verify,
                max_records=_BATCH,
                look_behind=not live,
            )
            yield from found.records
            checkpoint = found.checkpoint
            if found.ending in {Ending.CORRUPT, Ending.TORN} and not _still(path, fd):
                return
            if found.ending is Ending.CORRUPT and found.resume is not None:
                yield Damage(found.problem, lost=True)
                checkpoint = found.resume
            elif found.ending is not Ending.MORE:
                # On a live segment that is the record being written right now.
                if found.ending is Ending.TORN and not live:
                    yield Damage(found.problem, lost=False)
                return


def unread(path: Path, read_to: Checkpoint, *, most: int) -> list[Record]:
    """The records behind `read_to` that are committed, `most` at most; their payloads are not looked at."""
    disk = Disk()
    with _opened(path) as fd:
        size = disk.size(fd)
        found = scan(
            lambda at, length: disk.read(fd, min(length, max(0, size - at)), at),
            read_to,
            size=size,
            verify_payload=False,
            max_records=most,
            look_behind=False,
        )
        return found.records if _still(path, fd) else []


def report(path: Path, *, verify: bool) -> Report:
    """Read a segment file through."""
    objects = events = dataset_bytes = 0
    oldest: float | None = None
    damage: list[Damage] = []
    for found in walk(path, verify=verify):
        if isinstance(found, ObjectRecord):
            objects += 1
            dataset_bytes += found.dataset_length
            oldest = found.meta.received_at if oldest is None else min(oldest, found.meta.received_at)
        elif isinstance(found, EventRecord):
            events += 1
        else:
            damage.append(found)
    with _opened(path) as fd:
        state = "retired" if path.with_suffix(RETIRED_SUFFIX).exists() else "open" if _is_open(fd) else "sealed"
    return Report(
        generation=path.stem,
        place=path.parent.name,
        state=state,
        size_bytes=path.stat().st_size,
        objects=objects,
        events=events,
        dataset_bytes=dataset_bytes,
        oldest=oldest,
        damage=tuple(damage),
    )


def copy_object(path: Path, record: ObjectRecord, target: int) -> None:
    """Write the record's Part 10 file to the descriptor `target`. OSError if that is not what was received."""
    disk = Disk()
    crc = 0
    with _opened(path) as fd:
        head = disk.read(fd, record.dataset_offset - record.file_offset, record.file_offset)
        _write_all(target, head)
        end = record.dataset_offset + record.dataset_length
        for at in range(record.dataset_offset, end, 1 << 20):
            piece = disk.read(fd, min(1 << 20, end - at), at)
            crc = crc32c(piece, crc)
            _write_all(target, piece)
    if crc != record.dataset_crc32c:
        raise OSError(errno.EIO, "the record was freed while it was read", str(path))


def _write_all(target: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(target, view) :]

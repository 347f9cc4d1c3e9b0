"""One segment file being appended to, and the folders segments live in. The writer's hands on the disk.

Called by `writer` alone; one thread holds a segment at a time. While a segment is open its flock is held, so a lock
that can be had means sealed, also after the process died. A page that holds an acknowledged byte is never written
again in that life of the file. Every failure is an OSError; what it means for the object is the writer's to say.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from relaypacs.failpoint import reach
from relaypacs.spool.disk import FULL, Disk
from relaypacs.spool.format import PAGE, align, end_mark

SEGMENTS, FREE, QUARANTINE = "segments", "free", "quarantine"
SUFFIX = ".tar"
RETIRED_SUFFIX = ".retired"
GROW_LEAST_BYTES, GROW_MOST_BYTES = 256 << 10, 4 << 20
"""How much is added to a new segment at a time: as much as it has, between these."""
_ZEROS = bytes(GROW_MOST_BYTES)
OVERGROWN = 2
"""A segment of more than so many times its intended size is deleted, not recycled."""


def prepare(disk: Disk, folder: Path) -> None:
    """Make the spool's folders, durably."""
    missing = [folder / name for name in (SEGMENTS, FREE, QUARANTINE) if not (folder / name).is_dir()]
    for path in missing:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if missing:
        disk.sync_folder(folder)
        disk.sync_folder(folder.parent)


def new_generation(now: float) -> str:
    """A name no segment had or will have: the time (1/256 s, 10 hexadecimal digits), so that names sort by age, and
    88 random bits, so that no peer can write a page that looks like one of ours."""
    return f"{int(now * 256) & 0xFFFFFFFFFF:010x}{secrets.token_hex(11)}"


def free_files(folder: Path) -> list[Path]:
    """The segment files kept for reuse."""
    try:
        return [path for path in (folder / FREE).iterdir() if path.suffix == SUFFIX]
    except FileNotFoundError:
        return []


class Segment:
    """A segment this process appends to. `offset`, `number`, `chain`: where and what the next record is."""

    __slots__ = (
        "_disk",
        "_fd",
        "_opened_at",
        "chain",
        "end_mark",
        "generation",
        "idle_since",
        "number",
        "offset",
        "path",
        "solid",
        "stamp",
    )

    def __init__(self, disk: Disk, fd: int, path: Path, generation: str, opened_at: float) -> None:
        self._disk, self._fd, self._opened_at = disk, fd, opened_at
        self.path, self.generation = path, generation
        self.stamp = generation.encode("ascii")
        """The generation, as a header says it."""
        self.offset, self.number, self.chain = 0, 0, 0
        self.end_mark = end_mark(generation, opened_at)
        self.idle_since = 0.0
        self.solid = 0
        """Bytes of the file that are allocated, durably: writing there again changes no metadata."""

    def write(self, buffers: Sequence[bytes | memoryview], at: int) -> None:
        """Write whole pages at `at` (bytes from the segment's start)."""
        self._disk.write(self._fd, buffers, at)

    def start_writing(self, at: int, end: int) -> None:
        """Begin to write bytes `at` to `end` to the disk, while more of the object arrives."""
        self._disk.start_writing(self._fd, at, end - at)

    def sync(self, end: int) -> None:
        """Return when everything written is on the disk, up to byte `end` of a file that may have grown to there."""
        reach("segment.before-sync")
        self._disk.sync(self._fd)
        if end > self.solid:
            # Asked while its journal is being aborted, ext4 may call new blocks durable; asked again it tells.
            self._disk.sync(self._fd)
            self.solid = end

    def grow(self, limit: int, most: int = GROW_MOST_BYTES, *, room: int = GROW_LEAST_BYTES) -> bool:
        """Where less than `room` bytes of the file are left to write over, add zeros, durably: `most` bytes or what
        `room` wants, to `limit` bytes in all. False, and nothing changed, if there was no space for them.

        Costs less than letting every record grow the file, which makes each `fdatasync` wait for the journal.
        """
        at = self.solid
        missing = self.offset + room - at
        if missing <= 0 or at >= limit:
            return True
        end = min(at + align(max(GROW_LEAST_BYTES, min(at, most), missing), PAGE), align(limit, PAGE))
        zeros = memoryview(_ZEROS)
        try:
            self.write([zeros[: end - start] for start in range(at, end, GROW_MOST_BYTES)], at)
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            return False
        self.sync(end)  # whatever it fails with: what the kernel holds can't be trusted then
        return True

    def advance(self, end: int, chain: int, records: int) -> None:
        """So many records from `offset` on are committed; the last one ends at `end`, its chain CRC is `chain`."""
        self.offset, self.chain = end, chain
        self.number += records

    def seal(self) -> None:
        """Close for good. The mark says how many records there are; a crash may lose it, so it needs no sync."""
        with contextlib.suppress(OSError):
            mark = end_mark(self.generation, self._opened_at, records=self.number, chain=self.chain)
            self.write((mark,), self.offset)
        self._disk.close(self._fd)

    def unmark(self) -> None:
        """Take back a header whose record did not become durable, so that no reader of this file finds it."""
        with contextlib.suppress(OSError):
            self.write((self.end_mark,), self.offset)

    def retire(self) -> None:
        """Record durably that nothing counts from `offset` on, then close. Until that works the lock is kept."""
        marker = self.path.with_suffix(RETIRED_SUFFIX)
        draft = marker.with_suffix(".draft")
        self._disk.unlink(draft)
        fd = self._disk.create(draft)
        try:
            text = json.dumps({"committed_end": self.offset, "records": self.number})
            self._disk.write(fd, (text.encode("ascii"),), 0)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.rename(draft, marker)
        self._disk.sync_folder(marker.parent)
        self._disk.close(self._fd)


def retired_end(folder: Path, generation: str) -> int | None:
    """The byte at which a retired segment's durable records end; None if it is not retired."""
    try:
        return committed_end_in(folder / SEGMENTS / (generation + RETIRED_SUFFIX))
    except FileNotFoundError:
        return None


def committed_end_in(marker: Path) -> int:
    """The byte that a retired segment's marker file names. FileNotFoundError, OSError."""
    return int(json.loads(marker.read_bytes())["committed_end"])


def open_segment(disk: Disk, folder: Path, *, recycle: bool, segment_bytes: int, durable: bool, now: float) -> Segment:
    """A segment with nothing in it: a freed file under a new generation, or a new file. OSError if there is no way.

    Its name is durable before anyone can write a record into it.
    """
    generation = new_generation(now)
    path = folder / SEGMENTS / (generation + SUFFIX)
    fd = _take_freed(disk, folder, path, segment_bytes) if recycle else None
    recycled = fd is not None
    if fd is None:
        # Made and locked under another name: a reader never sees it unlocked before it is sealed.
        draft = folder / FREE / (generation + ".draft")
        fd = disk.create(draft)
        if not disk.lock(fd):
            raise OSError("a new segment is locked by somebody else")
        _named(disk, fd, draft, path)
    try:
        segment = Segment(disk, fd, path, generation, now)
        if durable:
            # Before the first write: a crash must not leave new pages under the name of the life before.
            disk.sync_folder(folder / FREE)
            disk.sync_folder(folder / SEGMENTS)
        segment.write((segment.end_mark,), 0)
        if recycled and durable:
            segment.sync(disk.size(fd) & -PAGE)
    except OSError:
        disk.close(fd)
        raise
    return segment


def _named(disk: Disk, fd: int, old: Path, new: Path) -> None:
    try:
        disk.rename(old, new)
    except OSError:
        disk.close(fd)
        raise


def _take_freed(disk: Disk, folder: Path, path: Path, segment_bytes: int) -> int | None:
    """Lock a freed file and rename it to `path`; None if there is none that can be had."""
    for freed in free_files(folder):
        try:
            fd = disk.open(freed, writable=True)
        except FileNotFoundError:
            continue
        try:
            if disk.size(fd) > OVERGROWN * segment_bytes:
                disk.unlink(freed)
            elif disk.lock(fd):
                # Whoever else opened this file before it was renamed away finds no such name now.
                disk.rename(freed, path)
                reach("segment.reused")
                return fd
        except FileNotFoundError:
            pass
        except OSError:
            disk.close(fd)
            raise
        disk.close(fd)
    return None

"""The reading end of the spool: hands out committed records, lends their bytes, frees what is done with.

One `SpoolReader` per node, in the relay process; thread-safe. Told a committed end by the writer's process, it reads to
there. Without one it proves what it publishes: verify, `fdatasync`, read again from the disk, verify again. A record
that fails in front of valid ones is SpoolCorrupt, raised once reading reaches it; what can't be read is OSError. Bytes
are lent through pins (mmap); a segment is never freed while one is held, nor while a writer could still append to it.
"""

from __future__ import annotations

import mmap
import re
import threading
from pathlib import Path
from types import TracebackType

from relaypacs.errors import SegmentGone, SpoolCorrupt
from relaypacs.failpoint import reach
from relaypacs.model import Checkpoint, Record
from relaypacs.spool.disk import Disk
from relaypacs.spool.recover import Ending, Scan, scan
from relaypacs.spool.segment import (
    FREE,
    OVERGROWN,
    QUARANTINE,
    RETIRED_SUFFIX,
    SEGMENTS,
    SUFFIX,
    free_files,
    prepare,
    retired_end,
)

GENERATION = re.compile(r"[0-9a-f]{32}")
CORRUPT_SUFFIX = ".corrupt"
"""Names a marker beside a segment in which damage was found: it is quarantined instead of freed, also after a crash."""


class _File:
    """An open segment; `pins` and `finished` are guarded by the reader's lock."""

    __slots__ = ("_map", "fd", "finished", "pins")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0
        self.finished: Checkpoint | None = None
        """Where the segment ends, once it is sealed and read to its end."""
        self._map: memoryview | None = None

    def view(self, offset: int, length: int) -> memoryview:
        whole = self._map
        if whole is None or len(whole) < offset + length:
            # The segment has grown. The map before lives as long as somebody has a view of it.
            self._map = whole = memoryview(mmap.mmap(self.fd, 0, prot=mmap.PROT_READ))
        if len(whole) < offset + length:
            raise SegmentGone("the segment is shorter than the record it should hold")
        return whole[offset : offset + length]


class Pin:
    """A lease of a segment's bytes: while it is held (`with`), the segment is neither freed nor reused."""

    __slots__ = ("_file", "_lock")

    def __init__(self, file: _File, lock: threading.RLock) -> None:
        self._file: _File | None = file
        self._lock = lock

    def view(self, offset: int, length: int) -> memoryview:
        """`length` bytes at `offset` from the segment's start, without copying. Not to be used after the pin."""
        assert self._file is not None
        return self._file.view(offset, length)

    def fileno(self) -> int:
        """A descriptor of the segment, for kernel copies; read-only, and the pin's."""
        assert self._file is not None
        return self._file.fd

    def release(self) -> None:
        """Give the lease back; harmless when done before."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.pins -= 1

    def __enter__(self) -> Pin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SpoolReader:
    """Reads the segments in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        recycle: bool,
        recycle_segments: int,
        segment_bytes: int = 64 << 20,
        disk: Disk | None = None,
    ) -> None:
        """At most `recycle_segments` freed files are kept for reuse, none of much more than `segment_bytes`."""
        self._folder, self._disk = folder, disk or Disk()
        self._recycle, self._recycle_segments, self._segment_bytes = recycle, recycle_segments, segment_bytes
        self._lock = threading.RLock()
        self._files: dict[str, _File] = {}
        prepare(self._disk, folder)

    def generations(self) -> list[str]:
        """The segments present (not free, not quarantined), oldest first."""
        names = (path.stem for path in (self._folder / SEGMENTS).iterdir() if path.suffix == SUFFIX)
        return sorted(name for name in names if GENERATION.fullmatch(name))

    def quarantined(self) -> list[str]:
        """The segments that were set aside for damage."""
        return sorted(path.stem for path in (self._folder / QUARANTINE).iterdir() if path.suffix == SUFFIX)

    def read(
        self, checkpoint: Checkpoint, *, committed_end: int | None, max_records: int = 1000
    ) -> tuple[list[Record], Checkpoint]:
        """The records behind `checkpoint`, at most `max_records`, and the checkpoint behind them.

        `committed_end` (bytes): what the writer said is durable; payloads are not verified then. None: everything
        that verifies, made durable first. SpoolCorrupt (with `resume`), SegmentGone, OSError.
        """
        generation = checkpoint.generation
        file = self._open(generation)
        if committed_end is None:
            found = self._prove(file, checkpoint, max_records)
        elif committed_end <= checkpoint.end:
            return [], checkpoint
        else:
            found = self._scan(file, checkpoint, stop=committed_end, verify_payload=False, max_records=max_records)
        if found.ending is Ending.CORRUPT and not found.records:
            self._note_corrupt(generation)
            raise SpoolCorrupt(found.problem, found.resume)
        return found.records, found.checkpoint

    def _prove(self, file: _File, checkpoint: Checkpoint, max_records: int) -> Scan:
        """Scan without being told an end: publish only what the disk itself is seen to hold."""
        if file.finished == checkpoint:
            return Scan([], checkpoint, Ending.SEALED)
        # Seen sealed before the scan starts, so a scan that finds an end has found the last one.
        sealed = self.is_sealed(checkpoint.generation)
        found = self._scan(file, checkpoint, max_records=max_records, look_behind=sealed)
        if found.ending is Ending.TORN and found.resume is not None and not found.records:
            # A record of the last group is no good: the others of the group may have been acknowledged.
            return self._prove(file, found.resume, max_records)
        if found.records:
            start, end = checkpoint.end, found.checkpoint.end
            self._disk.sync(file.fd)
            self._disk.forget(file.fd, start, end - start)
            # The same bytes again: a record whose write failed meanwhile has been taken back by its writer.
            found = self._scan(file, checkpoint, max_records=len(found.records), look_behind=sealed)
        elif found.ending is Ending.CORRUPT:
            # A header that was being written while it was read looks damaged once.
            found = self._scan(file, checkpoint, max_records=max_records, look_behind=sealed)
        elif sealed:
            file.finished = checkpoint
        return found

    def _scan(
        self,
        file: _File,
        checkpoint: Checkpoint,
        *,
        max_records: int,
        stop: int | None = None,
        verify_payload: bool = True,
        look_behind: bool = True,
    ) -> Scan:
        size = self._disk.size(file.fd)
        retired = retired_end(self._folder, checkpoint.generation)
        if retired is not None:
            size = min(size, retired)
        return scan(
            lambda at, length: self._disk.read(file.fd, min(length, max(0, size - at)), at),
            checkpoint,
            size=size,
            stop=stop,
            verify_payload=verify_payload,
            max_records=max_records,
            look_behind=look_behind,
        )

    def is_sealed(self, generation: str) -> bool:
        """Whether no process can append to the segment any more (its lock is free, or it is gone)."""
        try:
            fd = self._disk.open(self._path(generation), writable=False)
        except FileNotFoundError:
            return True
        try:
            return self._disk.lock(fd, shared=True)
        finally:
            self._disk.close(fd)

    def pin(self, generation: str) -> Pin:
        """Lease the segment's bytes. SegmentGone if it has been freed; OSError."""
        with self._lock:
            file = self._open(generation)
            file.pins += 1
            return Pin(file, self._lock)

    def free(self, generation: str) -> bool:
        """Nothing of the segment is needed any more: keep the file for reuse, or delete it, durably.

        False while it is pinned or not sealed. One in which damage was found is quarantined. OSError.
        """
        with self._lock:
            file = self._files.get(generation)
            if (file is not None and file.pins) or not self.is_sealed(generation):
                return False
            path = self._path(generation)
            if self._marker(generation, CORRUPT_SUFFIX).exists():
                self.quarantine(generation)
                return True
            retired = self._marker(generation, RETIRED_SUFFIX)
            try:
                if self._recycle and not retired.exists() and self._fits(path):
                    self._disk.rename(path, self._folder / FREE / path.name)
                    reach("segment.freed")
                    self._disk.sync_folder(self._folder / FREE)
                else:
                    self._disk.unlink(path)
            except FileNotFoundError:
                # The segment is gone, or the folder for reuse is: a segment left there would be taken in again.
                self._disk.unlink(path)
                prepare(self._disk, self._folder)
            self._disk.sync_folder(path.parent)
            self._disk.unlink(retired)
            self._close(generation)
            return True

    def quarantine(self, generation: str) -> Path:
        """Set the segment aside, whole, for people to look at; returns where it is now. SegmentGone, OSError."""
        with self._lock:
            path = self._path(generation)
            aside = self._folder / QUARANTINE / path.name
            try:
                self._disk.rename(path, aside)
            except FileNotFoundError:
                raise SegmentGone("the segment is not there any more") from None
            self._disk.sync_folder(aside.parent)
            self._disk.sync_folder(path.parent)
            for suffix in (CORRUPT_SUFFIX, RETIRED_SUFFIX):
                marker = self._marker(generation, suffix)
                if marker.exists():
                    self._disk.rename(marker, aside.with_suffix(suffix))
            self._close(generation)
            return aside

    def free_bytes(self) -> int:
        """Free space on the spool's file system, in bytes."""
        return self._disk.free_bytes(self._folder)

    def close(self) -> None:
        """Close every segment. Views that are still out stay valid."""
        with self._lock:
            for generation in tuple(self._files):
                self._close(generation)

    def _path(self, generation: str) -> Path:
        return self._folder / SEGMENTS / (generation + SUFFIX)

    def _marker(self, generation: str, suffix: str) -> Path:
        return self._folder / SEGMENTS / (generation + suffix)

    def _fits(self, path: Path) -> bool:
        return (
            path.stat().st_size <= OVERGROWN * self._segment_bytes
            and len(free_files(self._folder)) < self._recycle_segments
        )

    def _note_corrupt(self, generation: str) -> None:
        marker = self._marker(generation, CORRUPT_SUFFIX)
        if not marker.exists():
            self._disk.close(self._disk.create(marker))
            self._disk.sync_folder(marker.parent)

    def _open(self, generation: str) -> _File:
        with self._lock:
            file = self._files.get(generation)
            if file is None:
                if not GENERATION.fullmatch(generation):
                    raise SegmentGone("no segment has such a name")
                try:
                    fd = self._disk.open(self._path(generation), writable=False)
                except FileNotFoundError:
                    raise SegmentGone("the segment is not there any more") from None
                file = self._files[generation] = _File(fd)
            return file

    def _close(self, generation: str) -> None:
        file = self._files.pop(generation, None)
        if file is not None:
            self._disk.close(file.fd)

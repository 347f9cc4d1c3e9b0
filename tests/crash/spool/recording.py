"""A `Disk` that does the real calls in a real folder and keeps a trace of them, for crash states to be made from.

It can end the process's life at a chosen call (`Killed`, half a write done) or fail one. After a failed sync the pages
stay readable and are never written by a later sync, until they are written again: what Linux does.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relaypacs.spool.disk import Disk

PAGE = 4096


class Killed(BaseException):
    """The process died here: nothing of it runs any more."""


@dataclass(frozen=True, slots=True)
class Op:
    """One thing that happened: a call (`what` is its name) or a note of the test (`ack`, `publish`, `freeing`, ...)."""

    what: str
    file: int = -1
    at: int = 0
    data: bytes = b""
    path: str = ""
    new: str = ""
    note: object = None


class RecordingDisk(Disk):
    """Records into `trace`. Paths are kept relative to `root`; files are numbered from 0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trace: list[Op] = []
        self.kill_in = -1
        """Calls until `Killed`, -1 for never."""
        self.fail: tuple[str, int] | None = None
        """The next call of that name fails with that errno."""
        self._names: dict[str, int] = {}
        self._fds: dict[int, int] = {}
        self._count = 0
        self._synced: dict[int, bytearray] = {}
        self._dirty: dict[int, set[int]] = {}
        self._doomed: dict[int, set[int]] = {}
        self._errors: set[int] = set()

    def note(self, what: str, note: object) -> None:
        """Remember that something happened between two calls."""
        self.trace.append(Op(what, note=note))

    def die(self) -> None:
        """What the kernel does for a process that ends: its descriptors, and with them its locks, go."""
        for fd in tuple(self._fds):
            os.close(fd)
        self._fds.clear()
        self._errors.clear()
        self.kill_in, self.fail = -1, None

    def create(self, path: Path) -> int:
        self._step("create")
        fd = super().create(path)
        file, self._count = self._count, self._count + 1
        self._fds[fd] = self._names[self._name(path)] = file
        self._synced[file], self._dirty[file], self._doomed[file] = bytearray(), set(), set()
        self.trace.append(Op("create", file, path=self._name(path)))
        return fd

    def open(self, path: Path, *, writable: bool) -> int:
        fd = super().open(path, writable=writable)
        self._fds[fd] = self._names[self._name(path)]
        return fd

    def close(self, fd: int) -> None:
        self._errors.discard(fd)
        if self._fds.pop(fd, None) is not None:
            super().close(fd)

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        data = b"".join(buffers)
        try:
            self._step("write")
        except Killed:
            self._write(fd, data[: len(data) // 2 & ~511], at)
            raise
        except OSError as problem:
            if problem.errno == errno.ENOSPC:
                self._write(fd, data[: len(data) // 3], at)
            raise
        self._write(fd, data, at)

    def _write(self, fd: int, data: bytes, at: int) -> None:
        if not data:
            return
        super().write(fd, (data,), at)
        file = self._fds[fd]
        pages = set(range(at // PAGE, (at + len(data) - 1) // PAGE + 1))
        self._dirty[file] |= pages
        self._doomed[file] -= pages
        self.trace.append(Op("write", file, at, data))

    def sync(self, fd: int) -> None:
        file = self._fds[fd]
        try:
            self._step("sync")
            if fd in self._errors:
                self._errors.discard(fd)
                raise OSError(errno.EIO, "written back in vain")
        except OSError:
            # Each descriptor that was open is told once (fsync(2), Linux 4.13 and later).
            self._errors |= {other for other, its in self._fds.items() if its == file and other != fd}
            self._doomed[file] |= self._dirty[file]
            self._dirty[file].clear()
            self.trace.append(Op("sync_failed", file))
            raise
        for page in self._dirty[file]:
            whole, synced = os.pread(fd, PAGE, page * PAGE), self._synced[file]
            synced.extend(bytes(max(0, page * PAGE - len(synced))))
            synced[page * PAGE : page * PAGE + len(whole)] = whole
        self._dirty[file].clear()
        self.trace.append(Op("sync", file))

    def forget(self, fd: int, at: int, length: int) -> None:
        file = self._fds[fd]
        for page in sorted(self._doomed[file]):
            if at < (page + 1) * PAGE and page * PAGE < at + length:
                was = bytes(self._synced[file][page * PAGE : (page + 1) * PAGE]).ljust(PAGE, b"\0")
                with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as again:
                    os.pwrite(again.fileno(), was, page * PAGE)
                self._doomed[file].discard(page)

    def sync_folder(self, path: Path) -> None:
        self._step("sync_folder")
        self.trace.append(Op("sync_folder", path=self._name(path)))

    def rename(self, old: Path, new: Path) -> None:
        self._step("rename")
        super().rename(old, new)
        file = self._names.pop(self._name(old))
        self._names[self._name(new)] = file
        self.trace.append(Op("rename", file, path=self._name(old), new=self._name(new)))

    def unlink(self, path: Path) -> None:
        self._step("unlink")
        super().unlink(path)
        file = self._names.pop(self._name(path), None)
        if file is not None:
            self.trace.append(Op("unlink", file, path=self._name(path)))

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.root)

    def _step(self, what: str) -> None:
        if self.kill_in == 0:
            raise Killed
        self.kill_in -= self.kill_in > 0
        if self.fail is not None and self.fail[0] == what:
            code, self.fail = self.fail[1], None
            raise OSError(code, os.strerror(code))

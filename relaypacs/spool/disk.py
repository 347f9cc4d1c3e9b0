"""The system calls the spool is made of, one method each; nothing here knows what a segment holds.

Called by `segment`, `reader` and `lock`. A call either did all it says or raises OSError: short writes are finished
here, reads stop only at the end of the file. The write simulator records through a subclass of `Disk`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

_MODE = 0o600
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))
"""The errno values that mean: no space now, and no harm done."""
MOST_BUFFERS = 1024
"""What one `pwritev` takes (IOV_MAX of Linux, limits.h(0p))."""


class Disk:
    """The spool's file system calls. Stateless; offsets and lengths in bytes."""

    def create(self, path: Path) -> int:
        """A new empty file, open for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)

    def open(self, path: Path, *, writable: bool) -> int:
        """An existing file."""
        return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Close, and with that give up the lock. Never tells of a write: those are synced or don't count."""
        with contextlib.suppress(OSError):
            os.close(fd)

    def lock(self, fd: int, *, shared: bool = False) -> bool:
        """Whether the file's flock was free and is held now."""
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        """Write all of `buffers`, one behind the other, at `at`, from the first to the last: one call for each
        `MOST_BUFFERS`, unless the kernel writes short."""
        for first in range(0, len(buffers), MOST_BUFFERS):
            some = buffers[first : first + MOST_BUFFERS] if len(buffers) > MOST_BUFFERS else buffers
            total = sum(map(len, some))
            done = os.pwritev(fd, some, at)
            if done < total:
                rest = memoryview(b"".join(some))
                while done < total:
                    more = os.pwrite(fd, rest[done:], at + done)
                    if more == 0:
                        raise OSError(errno.EIO, "the file takes no more bytes")
                    done += more
            at += total

    def read(self, fd: int, length: int, at: int) -> bytes:
        """`length` bytes at `at`, fewer only at the end of the file."""
        found = os.pread(fd, length, at)
        if len(found) == length or not found:
            return found
        parts = [found]
        done = len(found)
        while done < length and (found := os.pread(fd, length - done, at + done)):
            parts.append(found)
            done += len(found)
        return b"".join(parts)

    def size(self, fd: int) -> int:
        """Bytes in the file."""
        return os.fstat(fd).st_size

    def sync(self, fd: int) -> None:
        """Return when everything written to the file is on the disk."""
        os.fdatasync(fd)

    def start_writing(self, fd: int, at: int, length: int) -> None:
        """Let the kernel begin to write these bytes to the disk, so that a later `sync` has less to wait for.

        Only a hint: it waits for nothing and its failure means nothing; what a write came to, `sync` tells.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, at, length, _SYNC_FILE_RANGE_WRITE)

    def forget(self, fd: int, at: int, length: int) -> None:
        """Drop what the kernel keeps of the file in memory, so that the next read shows what the disk has."""
        os.posix_fadvise(fd, at, length, os.POSIX_FADV_DONTNEED)

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's entries are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in one step."""
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a name; none is fine."""
        path.unlink(missing_ok=True)

    def free_bytes(self, folder: Path) -> int:
        """Bytes an unprivileged process may still allocate on the folder's file system."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

"""Staging on a local file system: one plain DICOM Part 10 file per instance, which any tool can open.

A put copies inside the kernel (`copy_file_range`: a reflink where the file system has them) to a file in `.new` and
renames it to its key. One `syncfs` makes a whole batch durable. What a killed process left in `.new` is removed when
the next one that puts opens the folder. The association is an extended attribute, where there are any. Everything the
operating system refuses is a StagingError that names no UID.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from relaypacs.errors import ObjectMissing, StagingError
from relaypacs.staging.keys import check_key
from relaypacs.staging.protocol import StagedFacts, StagedObject

_CHUNK_BYTES = 1 << 20
_NO_KERNEL_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
_NEW = ".new"
_ATTRIBUTE = "user.relaypacs.association"
_MKDIR_TRIES = 100
_POPULATE_READ = 22  # MADV_POPULATE_READ, madvise(2), Linux 5.14
_POPULATE_BYTES = 64 << 20
_serial = itertools.count()


class FilesystemStaging:
    """Staging in `folder`, which is made if it is absent; StagingError if that fails."""

    def __init__(self, folder: Path, *, only_one_that_puts: bool = False) -> None:
        """`only_one_that_puts`: no other process puts now, so what is half put is an earlier life's and removed."""
        self._folder = folder
        self._lock = threading.Lock()
        self._unsynced: set[Path] = set()
        self._failures = 0
        self._seen = threading.local()
        with _named("open"):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            for leftover in (folder / _NEW).glob("*") if only_one_that_puts else ():
                leftover.unlink()
        self._syncfs = _find_syncfs()

    def put(self, key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        """Copy to a file of its own in `.new`, then rename it. Of `facts` the association is kept."""
        path = self._folder / check_key(key)
        self._watch_failures()
        temporary = self._folder / _NEW / f"{os.getpid()}.{next(_serial)}"
        with _named("put"):
            target = _create(temporary)
            try:
                try:
                    _copy(source_fd, offset, target, length)
                    _mark(target, facts)
                finally:
                    os.close(target)
                _rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        if self._syncfs is None:
            with self._lock:
                self._unsynced.add(path)

    def sync(self) -> None:
        """One `syncfs` of the folder's file system; `fsync` of every new file and its folders where there is none.

        A failure is reported once to every thread that puts or syncs, since the kernel reports it only once.
        """
        self._watch_failures()
        with self._lock:
            try:
                with _named("sync"):
                    self._sync()
            except StagingError:
                self._failures += 1
                self._seen.failures = self._failures
                raise
            if self._seen.failures != self._failures:
                self._seen.failures = self._failures
                raise StagingError("staging: a sync failed since this thread's last one; what it put may be lost")

    @contextlib.contextmanager
    def open(self, key: str) -> Iterator[memoryview]:
        """Map the file. Views made of it may outlive the context; the mapping then goes with the last of them."""
        path = self._folder / check_key(key)
        with _named("open"):
            try:
                mapping = _map(path)
            except FileNotFoundError as error:
                raise ObjectMissing("staging: the object is not there") from error
        view = memoryview(mapping if mapping is not None else b"")
        try:
            yield view
        finally:
            with contextlib.suppress(BufferError):
                view.release()
                if mapping is not None:
                    mapping.close()

    def describe(self, key: str, head_bytes: int) -> StagedObject:
        """Read the file's beginning; `stored_at` and `received_at` are its modification time."""
        path = self._folder / check_key(key)
        with _named("describe"):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise ObjectMissing("staging: the object is not there") from error
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                head = os.pread(fd, head_bytes, 0)
                facts = _facts(fd, status.st_mtime)
            finally:
                os.close(fd)
        return StagedObject(length=status.st_size, stored_at=status.st_mtime, head=head, facts=facts)

    def delete(self, key: str) -> None:
        """Unlink the file, and its study and date folders while they are empty."""
        path = self._folder / check_key(key)
        with _named("delete"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for folder in path.parents[: key.count("/")]:
                folder.rmdir()

    def scan(self) -> Iterator[tuple[str, int]]:
        """Walk the folder."""
        with _named("scan"):
            yield from self._scan(self._folder, "")

    def free_bytes(self) -> int:
        """What statvfs(3) says an unprivileged process may still use."""
        with _named("free_bytes"):
            room = os.fstatvfs(self._fd)
        return room.f_bavail * room.f_frsize

    def _watch_failures(self) -> None:
        if not hasattr(self._seen, "failures"):
            self._seen.failures = self._failures

    def _sync(self) -> None:
        if self._syncfs is not None:
            if self._syncfs(self._fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return
        files, self._unsynced = self._unsynced, set()
        folders = {folder for path in files for folder in path.parents if folder.is_relative_to(self._folder)}
        for path in (*files, *folders):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _scan(self, folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._scan(folder / entry.name, f"{prefix}{entry.name}/")
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield prefix + entry.name, status.st_size


@contextlib.contextmanager
def _named(deed: str) -> Iterator[None]:
    """Turn what the operating system says into StagingError, without the path."""
    try:
        yield
    except OSError as error:
        raise StagingError(f"staging: {deed}: {error.strerror or 'failed'}") from error


def _create(path: Path) -> int:
    """Open a new file for writing, making its folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return os.open(path, flags, 0o640)


def _rename(source: Path, target: Path) -> None:
    """Rename, making the target's folders. They may vanish again under us: `delete` removes empty ones."""
    for _ in range(_MKDIR_TRIES):
        try:
            source.rename(target)
        except FileNotFoundError:
            # A parent may vanish between its making and its child's; then both are made again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                target.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        else:
            return
    raise OSError(errno.EBUSY, "its folder vanishes again and again")


def _copy(source: int, offset: int, target: int, length: int) -> None:
    """Copy inside the kernel, or through memory where the kernel can't (another file system, an old kernel)."""
    done, in_kernel = 0, True
    while done < length:
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, length - done, offset + done)
            except OSError as error:
                if error.errno not in _NO_KERNEL_COPY:
                    raise
            in_kernel = copied > 0
        if not in_kernel:
            chunk = os.pread(source, min(_CHUNK_BYTES, length - done), offset + done)
            if not chunk:
                raise OSError(errno.EIO, "the source ends before the object does")
            copied = os.write(target, chunk)
        done += copied


def _mark(fd: int, facts: StagedFacts | None) -> None:
    """Write down the association, where the file system can: the same for all its files, so that ext4 keeps it once."""
    if facts is not None:
        words = [facts.association_id, facts.calling_ae, facts.called_ae, facts.peer]
        with contextlib.suppress(OSError):
            os.setxattr(fd, _ATTRIBUTE, json.dumps(words).encode())


def _facts(fd: int, received_at: float) -> StagedFacts | None:
    try:
        association_id, calling_ae, called_ae, peer = json.loads(os.getxattr(fd, _ATTRIBUTE))
    except (OSError, ValueError):
        return None
    return StagedFacts("", association_id, calling_ae, called_ae, peer, received_at)


def _map(path: Path) -> mmap.mmap | None:
    """Map a regular file for reading; None for an empty one.

    Its pages are read at once (up to 64 MiB), so that a bad disk is an OSError here and no SIGBUS later.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if status.st_size == 0:
            return None
        mapping = mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ)
    finally:
        os.close(fd)
    try:
        mapping.madvise(_POPULATE_READ, 0, min(status.st_size, _POPULATE_BYTES))
    except OSError as error:
        if error.errno != errno.EINVAL:  # an older kernel
            mapping.close()
            raise OSError(errno.EIO, "the file can't be read") from error
    return mapping


def _find_syncfs() -> ctypes._NamedFuncPointer | None:
    """syncfs(2), or None where the C library, the kernel or a sandbox has none (a call answers EBADF otherwise)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
    call.argtypes, call.restype = [ctypes.c_int], ctypes.c_int
    call(-1)
    return None if ctypes.get_errno() in {errno.ENOSYS, errno.EPERM} else call

"""One node per spool folder, on a local disk only.

Called once by the supervisor before it forks; the descriptor is inherited by every process of the node, so the lock is
held until the last of them is gone. Refused: a folder on a network file system (flock and `fdatasync` don't promise
there what this product promises), one held by another node, and one with segments of a later format than this.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from pathlib import Path

from relaypacs.errors import SpoolError, SpoolLocked
from relaypacs.spool.segment import SEGMENTS, SUFFIX

_LOCK_FILE = "lock"
_POLL_SECONDS = 0.1

# statfs(2) f_type, from linux/magic.h and the file systems' own headers.
_NETWORK = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x01021997: "9P",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x20030528: "OrangeFS",
    0xAAD7AAEA: "PanFS",
    0x19830326: "BeeGFS",
    0x786F4256: "VirtualBox shared folder",
    0x65735546: "FUSE",
}


def network_file_system(magic: int) -> str | None:
    """The name of the network (or FUSE: unknown) file system with this statfs magic, None for a local one."""
    return _NETWORK.get(magic & 0xFFFFFFFF)


def statfs_magic(folder: Path) -> int:
    """What statfs(2) says of the kind of file system a folder is on. OSError."""
    # Python has statvfs only; struct statfs starts with f_type, a long, on every Linux this runs on.
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(512)
    if libc.statfs(os.fsencode(folder), found) != 0:
        raise OSError(ctypes.get_errno(), "statfs failed")
    return int.from_bytes(found.raw[:4], "little")


def lock_spool(folder: Path, wait_seconds: float) -> int:
    """Make `folder` if need be and lock it; returns the descriptor that holds the lock, inheritable by fork.

    Waits up to `wait_seconds` for an earlier life of this node to end. SpoolLocked; SpoolError for a folder that
    can't be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = network_file_system(statfs_magic(folder))
        fd = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise SpoolError(f"the spool folder {folder} can't be used: {problem.strerror}") from problem
    try:
        if name is not None:
            raise SpoolError(
                f"the spool folder {folder} is on a network file system ({name}); set [spool] dir to a local disk"
            )
        _acquire(fd, folder, wait_seconds)
        _refuse_newer(folder)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _acquire(fd: int, folder: Path, wait_seconds: float) -> None:
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise SpoolLocked(
                    f"the spool folder {folder} is held by another node; stop it, or give this one its own folder"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _refuse_newer(folder: Path) -> None:
    """A later format names its segments `<generation>.<version>.tar`; what this version can't read it won't ignore."""
    segments = folder / SEGMENTS
    if segments.is_dir():
        newer = [path.name for path in segments.iterdir() if path.suffix == SUFFIX and "." in path.stem]
        if newer:
            raise SpoolError(
                f"the spool holds {len(newer)} segments of a newer RelayPACS; start that version until they are sent"
            )

"""Folders for benchmarks in which no run pays for what an earlier one deleted.

Ext4 without a journal gives an inode that was deleted in the last minutes to nobody, but looks at each such when it
seeks a free one: a new file beside a thousand of them costs twice as much and more, whoever makes it. So what a run
stored is put aside as empty files, which gives the disk and the memory back, and is deleted with the whole benchmark;
and each program's folder lies in another part of the disk than those of an earlier benchmark.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of linux/fs.h
_TOP = 0x00020000  # FS_TOPDIR_FL


def spread(folder: Path) -> Path:
    """Ask for what is made in `folder` to lie apart on the disk (as `chattr +T`), where that can be had."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            (flags,) = struct.unpack("l", fcntl.ioctl(opened, _GET_FLAGS, bytes(8)))
            fcntl.ioctl(opened, _SET_FLAGS, struct.pack("l", flags | _TOP))
    finally:
        os.close(opened)
    return folder


def put_aside(folder: Path) -> None:
    """Empty a folder of files: they stay beside it, without their bytes."""
    number = sum(1 for one in folder.parent.iterdir() if one.name.startswith(f"{folder.name}-"))
    aside = folder.rename(folder.with_name(f"{folder.name}-{number}"))
    folder.mkdir()
    for path in aside.iterdir():
        os.truncate(path, 0)

"""The disk's writes: whole, in order, and without a copy of what is written."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from relaypacs.spool.disk import MOST_BUFFERS, Disk


@pytest.mark.parametrize("count", [0, 1, MOST_BUFFERS, MOST_BUFFERS + 1, 3 * MOST_BUFFERS + 7])
def test_any_number_of_buffers_is_written(tmp_path: Path, count: int) -> None:
    buffers = [b"%07d" % number for number in range(count)]
    disk = Disk()
    fd = disk.create(tmp_path / "file")
    disk.write(fd, buffers, 5)
    assert disk.read(fd, 7 * count + 100, 5) == b"".join(buffers)
    disk.close(fd)


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, at_once = os.pwritev, 700

    def short(fd: int, buffers: Sequence[bytes], at: int) -> int:
        return whole(fd, [b"".join(buffers)[:at_once]], at)

    monkeypatch.setattr(os, "pwritev", short)
    buffers = [b"%07d" % number for number in range(2 * MOST_BUFFERS + 3)]
    disk = Disk()
    fd = disk.create(tmp_path / "file")
    disk.write(fd, buffers, 0)
    assert disk.read(fd, 1 << 20, 0) == b"".join(buffers)
    disk.close(fd)


def test_many_buffers_are_not_copied(tmp_path: Path) -> None:
    piece = bytes(4096)
    disk = Disk()
    fd = disk.create(tmp_path / "file")
    tracemalloc.start()
    disk.write(fd, [piece] * (2 * MOST_BUFFERS), 0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert disk.size(fd) == 2 * MOST_BUFFERS * len(piece)
    assert most < 1 << 20
    disk.close(fd)

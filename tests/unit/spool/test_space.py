"""The free-space mark holds while many objects arrive at once, small ones and large ones."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.spool.commit import commit_together
from relaypacs.spool.disk import Disk
from tests.unit.spool.made import data, meta, writer

CAPACITY = 200 << 20
MARK = 64 << 20


class SmallDisk(Disk):
    """A stand-in for a disk of its own: what is free is the capacity without the files' lengths."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.least = CAPACITY

    def free_bytes(self, folder: Path) -> int:
        """What the files leave."""
        return CAPACITY - sum(path.stat().st_size for path in self._folder.rglob("*.tar"))

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        """As the real one; remembers how little was free."""
        super().write(fd, buffers, at)
        self.least = min(self.least, self.free_bytes(self._folder))


@pytest.mark.parametrize(("senders", "size", "chunk"), [(12, 20_000, 20_000), (6, 12 << 20, 256 << 10)])
def test_objects_that_arrive_at_once_do_not_pass_the_mark_together(
    tmp_path: Path, senders: int, size: int, chunk: int
) -> None:
    disk = SmallDisk(tmp_path)
    spool = writer(tmp_path, disk=disk, durable=True, min_free_bytes=MARK, segment_bytes=8 << 20)
    payload = data(size)
    refused = []

    def send(sender: int) -> None:
        for number in range(3000):
            try:
                append = spool.begin(meta(sender * 10_000 + number))
                for at in range(0, size, chunk):
                    append.write([payload[at : at + chunk]])
                append.commit()
            except SpoolFull:
                refused.append(sender)
                return

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == senders
    assert disk.least >= MARK - senders * (1 << 20), "what each may have written between two looks"


class FullWhenSynced(Disk):
    """A stand-in for a disk that tells of missing space only with a sync, as thin volumes and quotas may."""

    syncs = 0
    fails_at = 0
    failed = -1
    problem = errno.ENOSPC

    def sync(self, fd: int) -> None:
        """As the real one, but for one that fails."""
        self.syncs += 1
        assert fd != self.failed, "the segment is not synced again"
        if self.syncs == self.fails_at:
            self.failed = fd
            raise OSError(self.problem, os.strerror(self.problem))
        super().sync(fd)


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("more", [1, 2, 3])
def test_a_sync_that_fails_for_want_of_space_retires_the_segment_like_any_other(
    tmp_path: Path, problem: int, more: int
) -> None:
    """The first two are of what a group makes the file grow by, the third is of the group itself."""
    disk = FullWhenSynced()
    disk.problem = problem
    spool = writer(tmp_path, disk=disk, durable=True, segment_bytes=8 << 20)
    first = spool.append_event("before", 1.0, {})
    group = [spool.begin(meta(number)).finish([data(60_000)])[1] for number in range(16)]
    disk.fails_at = disk.syncs + more
    commit_together(spool, group)
    assert all(isinstance(one.error, SpoolError) and one.at is None for one in group)
    assert [path.stem for path in (tmp_path / "segments").glob("*.retired")] == [first.generation]
    assert disk.failed >= 0

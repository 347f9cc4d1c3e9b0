"""Group commit: who waits is written with others, in one write and one sync; each gets its own answer."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from relaypacs.errors import SpoolError
from relaypacs.model import Checkpoint, Committed
from relaypacs.spool.disk import Disk
from relaypacs.spool.group import LEADERS, MOST_RECORDS
from relaypacs.spool.segment import GROW_LEAST_BYTES
from relaypacs.spool.writer import SpoolWriter
from tests.unit.spool.made import data, meta, put, read_all, reader, writer


class SlowDisk(Disk):
    """A disk whose syncs wait until they are let go, and may fail."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.let_go.set()
        self.waiting = threading.Semaphore(0)
        self.syncs = 0
        self.writes: list[int] = []
        self.failing = False

    def sync(self, fd: int) -> None:
        """As a disk's, when it is let."""
        if not self.let_go.is_set():
            self.waiting.release()
            self.let_go.wait(10)
        self.syncs += 1
        if self.failing:
            raise OSError(errno.EIO, "the disk failed")
        super().sync(fd)

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        """Counted."""
        self.writes.append(at)
        super().write(fd, buffers, at)


class Crowd:
    """Objects committed at the same time, each by a thread of its own."""

    def __init__(self, spool: SpoolWriter, count: int, pieces: int = 1) -> None:
        """Each object comes in so many `pieces`."""
        self.at: dict[int, Committed] = {}
        self.errors: dict[int, str] = {}
        self._pieces = pieces
        self._threads = [threading.Thread(target=self._commit, args=(spool, number)) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _commit(self, spool: SpoolWriter, number: int) -> None:
        append = spool.begin(meta(number))
        append.write([data(1000 + number, number)])
        for _ in range(1, self._pieces):
            append.write([data(100, number)])
        try:
            self.at[number] = append.commit()
        except SpoolError as problem:
            self.errors[number] = str(problem)

    def join(self) -> None:
        """Wait for all."""
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def _ready(folder: Path, disk: Disk) -> SpoolWriter:
    """A writer with a warm segment for each leader, so that what is counted is commits."""
    spool = writer(folder, durable=True, disk=disk)
    leases = [spool.lease() for _ in range(LEADERS)]
    for segment in leases:
        segment.write((bytes((1 << 20) - segment.solid),), segment.solid)
        segment.sync(1 << 20)
        spool.give_back(segment)
    return spool


def _until_all_wait(spool: SpoolWriter, count: int) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if len(spool.together._waiting) == count:
            return
        pause.wait(0.01)
    raise AssertionError("they did not wait")


def test_those_who_wait_share_one_write_and_one_sync(tmp_path: Path) -> None:
    disk = SlowDisk()
    spool = _ready(tmp_path, disk)
    before = disk.syncs, len(disk.writes)
    disk.let_go.clear()
    crowd = Crowd(spool, LEADERS + 20)
    _until_all_wait(spool, 20)
    assert not crowd.at, "nobody is told before the sync"
    disk.let_go.set()
    crowd.join()
    assert (disk.syncs - before[0], len(disk.writes) - before[1]) == (LEADERS + 1, LEADERS + 1)
    assert sorted(crowd.at) == list(range(LEADERS + 20))
    spool.close()
    read = reader(tmp_path)
    found = {record.at for generation in read.generations() for record in read_all(read, generation)}
    assert found == set(crowd.at.values())


def test_a_group_has_a_limit_and_the_rest_is_the_next(tmp_path: Path) -> None:
    disk = SlowDisk()
    spool = _ready(tmp_path, disk)
    before = disk.syncs
    disk.let_go.clear()
    crowd = Crowd(spool, LEADERS + MOST_RECORDS + 1)
    _until_all_wait(spool, MOST_RECORDS + 1)
    disk.let_go.set()
    crowd.join()
    assert disk.syncs - before == LEADERS + 2
    assert len(crowd.at) == LEADERS + MOST_RECORDS + 1


def test_objects_in_many_small_pieces_are_written_together_all_the_same(tmp_path: Path) -> None:
    disk = SlowDisk()
    spool = _ready(tmp_path, disk)
    disk.let_go.clear()
    crowd = Crowd(spool, LEADERS + 10, pieces=200)  # 2000 pieces at once: one call takes 1024
    _until_all_wait(spool, 10)
    disk.let_go.set()
    crowd.join()
    assert not crowd.errors
    spool.close()
    read = reader(tmp_path)
    found = {record.at for generation in read.generations() for record in read_all(read, generation)}
    assert found == set(crowd.at.values())
    assert len(found) == LEADERS + 10


def test_a_failed_sync_fails_the_whole_group_and_nothing_of_it_is_found(tmp_path: Path) -> None:
    disk = SlowDisk()
    spool = _ready(tmp_path, disk)
    first = put(spool, b"before")
    disk.let_go.clear()
    disk.failing = True
    crowd = Crowd(spool, LEADERS + 5)
    _until_all_wait(spool, 5)
    disk.let_go.set()
    crowd.join()
    assert not crowd.at
    assert len(crowd.errors) == LEADERS + 5
    assert all("disk failed" in said for said in crowd.errors.values())
    disk.failing = False
    spool.close()
    read = reader(tmp_path)
    found = [record.at for generation in read.generations() for record in read_all(read, generation)]
    assert found == [first]


@pytest.mark.parametrize("size", [300 << 10, 440 << 10])
def test_a_fresh_segment_grows_to_what_a_group_needs(tmp_path: Path, size: int) -> None:
    """Written at once, as on blocks that exist: not payload, then header, with the file growing under both."""
    disk = SlowDisk()
    spool = writer(tmp_path, durable=True, disk=disk)
    append = spool.begin(meta())
    at = append.commit([data(size)])
    *_, grown, written = disk.writes
    assert (grown, written) == (GROW_LEAST_BYTES, at.offset)
    assert disk.writes.count(at.offset) == 3  # end mark, first zeros, the object
    again = spool.begin(meta(1)).commit([data(size)])
    assert disk.writes[-1] == again.offset == at.end
    spool.close()
    assert [record.at for record in read_all(reader(tmp_path), at.generation)] == [at, again]


def test_who_finds_no_place_and_then_nobody_who_has_one_leads_itself(tmp_path: Path) -> None:
    disk = SlowDisk()
    spool = _ready(tmp_path, disk)
    disk.let_go.clear()
    leaders = Crowd(spool, LEADERS)
    for _ in range(LEADERS):
        assert disk.waiting.acquire(timeout=10)
    with spool.together._lock:  # the next one has found no place, and can't be seen waiting yet
        late = Crowd(spool, 1)
        time.sleep(0.1)
        disk.let_go.set()
        leaders.join()
    late.join()
    assert len(late.at) == 1


def _group(folder: Path, count: int) -> tuple[Path, list[Committed]]:
    """A segment of one record, then a group of `count`; its writer is gone without sealing it."""
    disk = SlowDisk()
    spool = writer(folder, durable=True, disk=disk)
    first = put(spool, b"first")
    appends = []
    for number in range(count):
        append = spool.begin(meta(number))
        append.write([data(1000, number)])
        appends.append(append.finish()[1])
    spool.together._write(appends)
    at = [first, *(record.at for record in appends if record.at is not None)]
    (path,) = (folder / "segments").iterdir()
    return path, at


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_bad_record_of_the_last_group_costs_only_itself(tmp_path: Path, lost: int) -> None:
    """Nobody can say whether it was acknowledged, so what else is left of the group must not go with it."""
    path, at = _group(tmp_path / "spool", 4)
    copy = tmp_path / "copy" / "segments" / path.name
    copy.parent.mkdir(parents=True)
    content = bytearray(path.read_bytes())
    content[at[lost].offset + 3500] ^= 1
    copy.write_bytes(content)
    read = reader(tmp_path / "copy")
    assert [record.at for record in read_all(read, path.stem)] == [one for one in at if one != at[lost]]
    assert read.quarantined() == []


def test_on_a_live_segment_nothing_is_passed_over(tmp_path: Path) -> None:
    """The record may be in the middle of its write: later ones of the group have to wait for it."""
    path, at = _group(tmp_path, 4)
    spool = writer(tmp_path)  # a second one: it must not matter
    with path.open("r+b") as file:
        file.seek(at[2].offset + 3500)
        file.write(b"?")
    read = reader(tmp_path)
    assert not read.is_sealed(path.stem)
    records, checkpoint = read.read(Checkpoint(path.stem), committed_end=None)
    assert [record.at for record in records] == at[:2]
    assert read.read(checkpoint, committed_end=None) == ([], checkpoint)
    spool.close()

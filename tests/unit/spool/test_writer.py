"""The writer: what it commits is what is read, from any number of threads; what it abandons never was."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.errors import SpoolError, SpoolFull
from relaypacs.model import Committed, EventRecord, ObjectRecord
from relaypacs.spool import writer as spool_writer
from relaypacs.spool.append import LAST_BYTES
from relaypacs.spool.disk import Disk
from tests.unit.spool.made import data, meta, put, read_all, reader, stream, writer

steps = st.lists(
    st.tuples(
        st.sampled_from(["commit", "commit", "commit", "abandon", "event"]),
        st.integers(0, 30_000),
        st.integers(1, 9000),
    ),
    max_size=12,
)


class CountingDisk(Disk):
    """A disk that counts its writes."""

    writes = 0

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        """Counted."""
        self.writes += 1
        super().write(fd, buffers, at)


@settings(deadline=None, max_examples=40)
@given(st.lists(steps, min_size=1, max_size=5), st.sampled_from([1 << 14, 1 << 20]), st.integers(1, 3), st.booleans())
def test_any_sequence_from_several_threads_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    plans: list[list[tuple[str, int, int]]],
    segment_bytes: int,
    lives: int,
    durable: bool,
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    read = reader(folder)
    for life in range(lives):
        told: list[Committed] = []
        committed: dict[Committed, bytes | tuple[str, int]] = {}
        spool = writer(folder, segment_bytes=segment_bytes, on_commit=told.append, durable=durable, held_bytes=9000)

        def run(plan: list[tuple[str, int, int]], seed: int, spool=spool, committed=committed) -> None:  # type: ignore[no-untyped-def]
            for step, (what, length, fragment) in enumerate(plan):
                if what == "event":
                    committed[spool.append_event("audit", 1.5, {"step": step, "x": "é" * (length // 9)})] = (
                        "audit",
                        step,
                    )
                    continue
                payload = data(length, seed + step)
                append = spool.begin(meta(seed + step))
                pieces = [memoryview(payload)[at : at + fragment] for at in range(0, length, fragment)]
                last = pieces[len(pieces) // 2 * 2 :] if step % 2 else []
                pieces = pieces[: len(pieces) - len(last)]
                for at in range(0, len(pieces), 2):
                    append.write(pieces[at : at + 2])
                if what == "commit":
                    committed[append.commit(last)] = payload
                    assert append.dataset_length == length
                append.abandon()

        threads = [threading.Thread(target=run, args=(plan, life * 100 + index)) for index, plan in enumerate(plans)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ends = {at.generation: at.end for at in sorted(committed, key=lambda at: at.end)}
        assert {at.generation: at.end for at in sorted(told, key=lambda at: at.end)} == ends
        assert set(told) <= committed.keys()
        if life % 2 == 0:
            spool.close()
        found = {record.at: record for generation in read.generations() for record in read_all(read, generation, 3)}
        assert found.keys() == committed.keys()
        for at, record in found.items():
            if isinstance(record, EventRecord):
                assert (record.kind, record.body["step"]) == committed[at]
            else:
                with read.pin(at.generation) as pin:
                    assert pin.view(record.dataset_offset, record.dataset_length) == committed[at]
        spool.close()
        for generation in read.generations():
            assert read.free(generation)
    read.close()


def test_a_lease_is_per_object_and_the_last_returned_is_the_next_used(tmp_path: Path) -> None:
    spool = writer(tmp_path, held_bytes=0)
    one, two = stream(spool, 1), stream(spool, 2)
    first, second = one.commit(), two.commit()
    assert first.generation != second.generation
    assert put(spool, b"x").generation == second.generation
    assert len(reader(tmp_path).generations()) == 2


def test_a_segment_is_sealed_at_its_size_and_an_object_never_spans_two(tmp_path: Path) -> None:
    spool = writer(tmp_path, segment_bytes=1 << 16)
    big = put(spool, data(300_000))
    assert big.end > 300_000
    read = reader(tmp_path)
    assert read.is_sealed(big.generation)
    assert put(spool, b"x").generation != big.generation


def test_over_the_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    spool = writer(tmp_path, max_object_bytes=10_000)
    append = spool.begin(meta())
    append.write([data(10_000)])
    with pytest.raises(SpoolFull, match="limit of 10000"):
        append.write([b"x"])
    with pytest.raises(SpoolError, match="already ended"):
        append.commit()
    append.abandon()
    at = put(spool, b"next")
    assert [record.at for record in read_all(reader(tmp_path), at.generation)] == [at]
    assert at.number == 0


@pytest.mark.parametrize("before", [0, 10, 5000, 200_000])
@pytest.mark.parametrize("last", [1, 5000, 100_000, LAST_BYTES, LAST_BYTES + 1])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_what_the_commit_is_given_is_the_end_of_the_dataset(tmp_path: Path, before: int, last: int, count: int) -> None:
    spool = writer(tmp_path, segment_bytes=8 << 20)
    put(spool, b"before it")
    append = spool.begin(meta())
    written, end = data(before, 1), data(last, 2)
    append.write([written])
    step = -(-last // count)
    at = append.commit([memoryview(end)[start : start + step] for start in range(0, last, step)])
    put(spool, b"behind it")
    read = reader(tmp_path)
    records = read_all(read, at.generation)
    assert len(records) == 3
    assert isinstance(records[1], ObjectRecord)
    with read.pin(at.generation) as pin:
        assert pin.view(records[1].dataset_offset, records[1].dataset_length) == written + end


def test_a_small_object_that_comes_with_its_commit_is_one_write(tmp_path: Path) -> None:
    disk = CountingDisk()
    spool = writer(tmp_path, disk=disk, durable=True)
    for _ in range(3):
        put(spool, b"the segment is open and has grown")
    before = disk.writes
    spool.begin(meta()).commit([memoryview(data(200_000))])
    assert disk.writes == before + 1


def test_over_the_limit_with_the_commit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    spool = writer(tmp_path, max_object_bytes=10_000)
    append = spool.begin(meta())
    append.write([data(10_000)])
    with pytest.raises(SpoolFull, match="limit of 10000"):
        append.commit([b"x"])
    with pytest.raises(SpoolError, match="already ended"):
        append.commit()
    assert put(spool, b"next").number == 0


def test_below_the_mark_objects_are_refused_and_events_are_not(tmp_path: Path) -> None:
    spool = writer(tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(SpoolFull, match="below its mark"):
        spool.begin(meta())
    assert "below its mark" in (spool.refusal() or "")
    assert spool.append_event("association", 1.0, {}).number == 0
    roomy = writer(tmp_path, min_free_bytes=1)
    assert roomy.refusal() is None


def test_identifiers_that_do_not_fit_leave_the_segment_usable(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    with pytest.raises(SpoolError, match="don't fit"):
        spool.begin(meta(sop_instance_uid="9" * 2000))
    assert put(spool, b"x").number == 0
    assert len(reader(tmp_path).generations()) == 1


def test_nothing_begins_after_close_and_what_runs_can_end(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    append = spool.begin(meta())
    spool.close()
    with pytest.raises(SpoolError, match="closed"):
        spool.begin(meta())
    append.write([b"late"])
    at = append.commit()
    read = reader(tmp_path)
    assert read.is_sealed(at.generation)
    (record,) = read_all(read, at.generation)
    assert isinstance(record, ObjectRecord)
    assert record.meta == meta()


def test_segments_idle_for_long_are_sealed(tmp_path: Path) -> None:
    spool = writer(tmp_path, idle_seconds=0.2, held_bytes=0)
    appends = [stream(spool, number) for number in range(5)]
    at = [append.commit() for append in appends]
    read = reader(tmp_path)
    assert not any(read.is_sealed(committed.generation) for committed in at)
    time.sleep(0.25)
    assert spool.refusal() is None
    assert all(read.is_sealed(committed.generation) for committed in at)


def test_a_burst_leaves_a_bounded_pool(tmp_path: Path) -> None:
    spool = writer(tmp_path, held_bytes=0)
    appends = [stream(spool, number) for number in range(spool_writer.IDLE_SEGMENTS + 9)]
    at = [append.commit() for append in appends]
    read = reader(tmp_path)
    assert sum(not read.is_sealed(committed.generation) for committed in at) == spool_writer.IDLE_SEGMENTS


def test_two_processes_share_the_folder_and_no_segment(tmp_path: Path) -> None:
    ours, theirs = writer(tmp_path), writer(tmp_path)
    assert put(ours, b"a").generation != put(theirs, b"b").generation
    ours.close()
    theirs.close()
    read = reader(tmp_path)
    assert all(read.free(generation) for generation in read.generations())
    again = [writer(tmp_path) for _ in range(4)]
    assert len({put(spool, b"c").generation for spool in again}) == 4


class _OutOfMemory(Disk):
    """Writes of so many buffers and more fail in this process, not on the disk."""

    most = 1000

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], at: int) -> None:
        if len(buffers) >= self.most:
            raise MemoryError
        super().write(fd, buffers, at)


@pytest.mark.parametrize("size", [5000, 400_000])
def test_what_fails_in_this_process_costs_a_segment_and_no_record(tmp_path: Path, size: int) -> None:
    disk = _OutOfMemory()
    spool = writer(tmp_path, disk=disk, durable=True)
    first = put(spool, data(5000), 1)
    append = spool.begin(meta(2))
    append.write([data(size)])
    disk.most = 2
    with pytest.raises(MemoryError):
        append.commit()
    disk.most = 1000
    second = put(spool, data(5000), 3)
    assert second.generation != first.generation, "nothing is written behind what nobody knows"
    spool.close()
    read = reader(tmp_path)
    assert [one.at for at in (first, second) for one in read_all(read, at.generation)] == [first, second]
    assert read.is_sealed(first.generation), "it can be freed"


class _NoStatvfs(Disk):
    def free_bytes(self, folder: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_does_not_say_its_room_is_a_refusal_not_a_crash(tmp_path: Path) -> None:
    spool = writer(tmp_path, disk=_NoStatvfs())
    assert "Input/output error" in str(spool.refusal())
    with pytest.raises(SpoolError):
        spool.begin(meta())

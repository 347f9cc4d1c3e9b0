"""The stager with staging that all nodes share: several at once, none held up, nothing told that is not there."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relaypacs.errors import JobsError, StagingError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Unstaged
from relaypacs.model import Delivered, Settlement
from relaypacs.stager import TELL_EVERY, Stager
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import StagedFacts
from relaypacs.sweep import Sweep
from tests.unit.relay_rooms import NODE, Rooms, dataset


class Counted(FilesystemStaging):
    """A stand-in for a slow bucket: a folder whose puts wait for `gate`, those of a length for `gates`, and fail for
    what is in `bad`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = threading.Event()
        self.gate.set()
        self.bad: set[int] = set()
        self.gates: dict[int, threading.Event] = {}
        self.lock = threading.Lock()
        self.now = self.most = self.begun = 0
        self.enough = threading.Event()

    def put(self, key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        with self.lock:
            self.now += 1
            self.begun += 1
            self.most = max(self.most, self.now)
            if self.now == 4:
                self.enough.set()
        try:
            assert self.gate.wait(30)
            assert length not in self.gates or self.gates[length].wait(30)
            if offset in self.bad:
                raise StagingError("a bad one")
            super().put(key, source_fd, offset, length, facts)
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    yield rooms
    rooms.writer.close()


@pytest.fixture
def bucket(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "bucket")


@pytest.fixture
def shared(rooms: Rooms, tmp_path: Path) -> Iterator[JobStore]:
    """The rooms' job table, opened by a node with shared staging."""
    store = JobStore.open(f"sqlite:///{next(tmp_path.rglob('*.sqlite'))}", shared_staging=True)
    yield store
    store.close()


@pytest.fixture
def stager(rooms: Rooms, bucket: Counted, shared: JobStore) -> Stager:
    return Stager(
        node=NODE,
        reader=rooms.reader,
        jobs=shared,
        staging=bucket,
        segment_gone=rooms.intake.forgotten,
        hash_key=b"key",
        date="study",
        shared=True,
        puts_at_once=4,
    )


def received(rooms: Rooms, shared: JobStore, count: int) -> list[Unstaged]:
    for number in range(count):
        rooms.receive(f"1.2.{number}")
    rooms.intake.recover()
    return shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000)


def test_several_are_put_at_once_and_no_more_than_allowed(
    rooms: Rooms, shared: JobStore, bucket: Counted, stager: Stager
) -> None:
    found = received(rooms, shared, 12)
    bucket.gate.clear()
    problems: list[Exception] = []
    thread = threading.Thread(target=lambda: problems.extend(stager.stage(found)))
    thread.start()
    assert bucket.enough.wait(30), "four at once"
    # Nothing is known of what is not there yet, and its segment can't go.
    assert len(shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000)) == 12
    rooms.writer.close()
    assert rooms.sweep.free() == 0
    bucket.gate.set()
    thread.join()
    assert (problems, stager.staged, bucket.most) == ([], 12, 4)
    assert shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000) == []
    assert rooms.sweep.free() == 1


def test_one_that_fails_holds_up_none_of_the_others(
    rooms: Rooms, shared: JobStore, bucket: Counted, stager: Stager
) -> None:
    found = received(rooms, shared, 6)
    bucket.bad = {found[2].file_offset}
    problems = stager.stage(found)
    assert [str(one) for one in problems] == ["a bad one"]
    assert stager.staged == 5
    (left,) = shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000)
    assert left.instance_id == found[2].instance_id
    bucket.bad.clear()
    assert stager.stage([left]) == []


def test_what_is_put_is_told_before_the_whole_round_is_over(
    rooms: Rooms, shared: JobStore, bucket: Counted, stager: Stager
) -> None:
    found = received(rooms, shared, TELL_EVERY + 10)
    last_ones_wait = threading.Event()
    put = bucket.put

    def slow(key: str, source_fd: int, offset: int, length: int, facts: StagedFacts | None = None) -> None:
        if offset == found[-1].file_offset:
            assert last_ones_wait.wait(30)
        put(key, source_fd, offset, length, facts)

    bucket.put = slow  # type: ignore[method-assign]  # of the stand-in
    thread = threading.Thread(target=lambda: stager.stage(found))
    thread.start()
    for _ in range(600):
        if len(shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000)) <= 10:
            break
        threading.Event().wait(0.05)
    left = len(shared.to_stage(NODE, received_before=1e12, keep=True, limit=1000))
    last_ones_wait.set()
    thread.join()
    assert 0 < left <= 10


def shared_sweep(rooms: Rooms, shared: JobStore, bucket: Counted) -> Sweep:
    """Of a node that keeps nothing."""
    return Sweep(
        node=NODE,
        reader=rooms.reader,
        jobs=shared,
        staging=bucket,
        intake=rooms.intake,
        nudged=rooms.rows_changed,
        hash_key=b"key",
        hot_seconds=0.0,
        keep_seconds=0.0,
        min_free_bytes=0,
        date="study",
        shared=True,
        puts_at_once=2,
        clock=rooms.clock,
    )


def test_a_long_put_holds_up_no_other_and_its_segment_waits_for_it(
    rooms: Rooms, shared: JobStore, bucket: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relaypacs.stager.LONGEST_SECONDS", 0.2)
    sweep = shared_sweep(rooms, shared, bucket)
    (first,) = received(rooms, shared, 1)
    rooms.writer.close()
    gate = bucket.gates[first.file_length] = threading.Event()
    rooms.clock.now += 10
    assert sweep.step(), "there is more to do"
    # Nothing is owed of it any more; but what is on its way to the bucket gets a row that names it.
    now = rooms.clock.now
    claims = shared.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=now)
    shared.settle([Settlement(one, Delivered(), now, now) for one in claims], now)
    rooms.writer = rooms.new_writer()
    rooms.receive("1.2.77", dataset("1.2.77", body=bytes(9000)))
    rooms.writer.close()
    rooms.intake.recover()
    rooms.clock.now += 10
    assert sweep.step()
    assert [shared.trace(uid)[0].staged for uid in ("1.2.0", "1.2.77")] == [False, True]
    assert [one.stem for one in rooms.segments()] == [first.generation]
    gate.set()
    for _ in range(20):
        rooms.clock.now += 10
        sweep.step()
    assert bucket.begun == 2, "each once"
    assert rooms.segments() == []
    (named,) = shared.copies.staged(since=0.0, after=0, limit=9)
    assert [key for key, _ in bucket.scan()] == [named.location.staged_key], "and the first is purged"
    assert named.sop_instance_uid == "1.2.77"


def test_what_ended_is_told_together_and_again_where_the_job_table_refused(
    rooms: Rooms, shared: JobStore, bucket: Counted, stager: Stager, tmp_path: Path
) -> None:
    found = received(rooms, shared, 3)
    bucket.bad = {found[1].file_offset}
    ended = threading.Semaphore(0)
    stager.begin(found, ended.release)
    stager.begin(found)
    assert all(ended.acquire(timeout=30) for _ in found)
    with closing(sqlite3.connect(next(tmp_path.rglob("*.sqlite")))) as table:
        table.execute("CREATE TRIGGER away BEFORE UPDATE ON instance BEGIN SELECT RAISE(ABORT, 'away'); END")
        for _ in range(2):
            with pytest.raises(JobsError):
                stager.told()
        assert stager.going() == {row.instance_id for row in found}
        table.execute("DROP TRIGGER away")
    outcomes = stager.told()
    assert [str(outcomes[row.instance_id]) for row in found] == ["None", "a bad one", "None"]
    assert (bucket.begun, stager.staged, stager.going()) == (3, 2, set())
    (left,) = shared.to_stage(NODE, received_before=1e12, keep=True, limit=9)
    assert left.instance_id == found[1].instance_id


def test_stopped_it_begins_nothing_more(rooms: Rooms, shared: JobStore, bucket: Counted, stager: Stager) -> None:
    found = received(rooms, shared, 20)
    bucket.gate.clear()
    thread = threading.Thread(target=lambda: stager.stage(found))
    thread.start()
    assert bucket.enough.wait(30)
    stager.stop()
    bucket.gate.set()
    thread.join()
    assert stager.staged == bucket.begun == 4


@pytest.mark.parametrize("delivered", [True, False])
def test_what_a_killed_process_put_without_a_row_gets_one_and_is_purged(
    rooms: Rooms, shared: JobStore, bucket: Counted, delivered: bool
) -> None:
    """Nobody wants the bytes kept; in shared staging no row says before a put that it will be there."""
    (row,) = received(rooms, shared, 1)

    with rooms.reader.pin(row.generation) as pin:
        key = shared_sweep(rooms, shared, bucket)._stager._key(row)
        bucket.put(key, pin.fileno(), row.file_offset, row.file_length)

    def deliver() -> None:
        now = rooms.clock.now
        claims = shared.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=now)
        assert len(claims) == shared.settle([Settlement(one, Delivered(), now, now) for one in claims], now) == 1
        rooms.clock.now += 10

    if delivered:
        deliver()
    rooms.writer.close()
    rooms.clock.now += 10
    sweep = shared_sweep(rooms, shared, bucket)
    for _ in range(3):
        sweep.step()
        rooms.clock.now += 10
    assert (rooms.segments(), len(list(bucket.scan()))) == ([], 0 if delivered else 1)
    if not delivered:
        deliver()
        sweep.step()
        assert list(bucket.scan()) == []

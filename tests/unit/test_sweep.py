"""The sweep on real rooms: what is owed stays, what is staged frees the spool, what was kept long enough goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from relaypacs.errors import StagingError
from relaypacs.jobs.associations import Asked
from relaypacs.model import Deferred, Delivered, Failed, Scope, Settlement
from relaypacs.sweep import BATCH, CARRY_AFTER_SECONDS
from tests.unit.jobs.made import end
from tests.unit.relay_rooms import NODE, Rooms, dataset

DAY = 86400.0


def received(rooms: Rooms, count: int = 3) -> None:
    for number in range(count):
        rooms.receive(f"1.2.{number}")
    rooms.intake.recover()


def test_nothing_is_staged_while_hot(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms)
    rooms.clock.now += 1
    rooms.sweep.step()
    assert rooms.staged_files() == []


def test_staged_files_are_what_was_received_and_named_without_identity(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms, 1)
    rooms.clock.now += 3
    rooms.sweep.step()
    (path,) = rooms.staged_files()
    name = str(path.relative_to(tmp_path / "staging"))
    assert name.startswith("2026/01/02/study-")
    assert "1.2.0" not in name
    assert "PID1" not in name
    assert path.read_bytes().endswith(dataset("1.2.0"))
    assert dcmread(path).PatientID == "PID1"
    assert rooms.jobs.trace("1.2.0")[0].staged


def test_a_segment_is_freed_only_when_sealed_and_its_instances_are_staged(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms)
    rooms.clock.now += 3
    rooms.sweep.stage(rooms.clock.now)
    assert rooms.sweep.free() == 0  # not sealed
    rooms.writer.close()
    assert rooms.sweep.free() == 1
    assert rooms.segments() == []
    rooms.hints.close()
    rooms.reopen()
    assert rooms.intake.recover() == 0  # nothing is taken in a second time
    claims = rooms.claims()
    assert len(claims) == 3
    assert all(claim.location.generation is None and claim.location.staged_key for claim in claims)


def test_what_is_owed_keeps_its_segment_even_when_nothing_is_kept(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=0.0)
    received(rooms)
    rooms.writer.close()
    assert rooms.sweep.free() == 0
    rooms.deliver_all()
    assert rooms.sweep.free() == 1
    assert rooms.staged_files() == []  # delivered while hot: never staged


def test_what_is_owed_is_staged_even_when_nothing_is_kept(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=0.0)
    received(rooms)
    rooms.writer.close()
    rooms.clock.now += 3
    rooms.sweep.step()
    assert len(rooms.staged_files()) == 3
    assert rooms.segments() == []


def test_staged_files_go_when_kept_long_enough_and_never_before_delivery(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=7 * DAY)
    received(rooms)
    rooms.clock.now += 3
    rooms.sweep.step()
    rooms.clock.now += 100 * DAY
    assert rooms.sweep.purge() == 0  # still owed after a hundred days
    rooms.deliver_all()
    rooms.clock.now += 6 * DAY
    assert rooms.sweep.purge() == 0
    rooms.clock.now += 2 * DAY
    assert rooms.sweep.purge() == 3
    assert rooms.staged_files() == []
    assert rooms.jobs.ledger().imbalance == 0


def test_rows_go_when_bytes_and_time_are_over_and_the_ledger_counts_them(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=0.0, keep_rows_seconds=90 * DAY)
    received(rooms)
    rooms.writer.close()
    rooms.clock.now += 100 * DAY
    rooms.sweep.step()
    assert rooms.jobs.ledger().pending == 3  # still owed after a hundred days
    rooms.deliver_all()
    before = rooms.jobs.ledger()
    for _ in range(3):
        rooms.clock.now += 1
        rooms.sweep.step()
    assert (rooms.staged_files(), rooms.segments()) == ([], [])
    rooms.clock.now += 89 * DAY
    assert rooms.sweep.forget() == 0
    rooms.clock.now += 2 * DAY
    assert rooms.sweep.forget() == 3
    assert rooms.jobs.ledger() == before
    assert (before.delivered, before.imbalance) == (3, 0)


def test_associations_of_the_log_go_with_the_rows(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_rows_seconds=90 * DAY)
    ends = [replace(end(f"a{n}", objects=0), ended_at=rooms.clock() + n) for n in range(BATCH + 1)]
    rooms.jobs.take_in("node", [], ends, [], rooms.clock())
    rooms.clock.now += 90 * DAY
    assert rooms.sweep.forget() == 0
    rooms.clock.now += BATCH
    assert rooms.sweep.step(), "there is more to do"
    rooms.clock.now += 2
    assert rooms.sweep.forget() == 1
    assert rooms.jobs.associations.find(Asked(), limit=9) == []
    # A day later the ledger no longer knows them one by one: they brought nothing.
    rooms.clock.now += CARRY_AFTER_SECONDS
    assert [rooms.sweep.forget() for _ in range(3)] == [BATCH, 1, 0]
    assert rooms.jobs.ledger().imbalance == 0


def test_dead_letters_and_deferrals_keep_their_bytes(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=0.0)
    received(rooms, 2)
    rooms.writer.close()
    now = rooms.clock.now
    one, other = rooms.claims()
    rooms.jobs.settle(
        [
            Settlement(one, Failed("refused"), now, now),
            Settlement(other, Deferred("busy", Scope.SITE), now, now, retry_at=now + 60),
        ],
        now,
    )
    rooms.clock.now += 30 * DAY
    rooms.sweep.step()
    rooms.sweep.step()
    assert len(rooms.staged_files()) == 2


def test_kept_for_ever_is_never_purged(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=None)
    received(rooms)
    rooms.deliver_all()
    rooms.clock.now += 3
    rooms.sweep.step()
    rooms.clock.now += 10_000 * DAY
    assert rooms.sweep.purge() == 0
    assert len(rooms.staged_files()) == 3


def test_a_staging_that_fails_frees_nothing(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms)
    rooms.writer.close()
    staging = tmp_path / "staging"
    for path in sorted(staging.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    staging.rmdir()
    staging.write_text("not a folder")
    rooms.clock.now += 3
    try:
        rooms.sweep.step()
    except (StagingError, OSError):
        pass
    else:
        raise AssertionError("staging into a file went unnoticed")
    assert len(rooms.segments()) == 1
    staging.unlink()
    rooms.sweep.step()
    assert len(rooms.staged_files()) == 3


def test_freeing_and_purging_do_not_wait_for_staging(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=DAY)
    received(rooms, 1)
    rooms.deliver_all()
    rooms.clock.now += 3
    rooms.sweep.step()
    rooms.writer.close()
    rooms.clock.now += 2 * DAY
    rooms.writer = rooms.new_writer()
    rooms.receive("1.2.9")
    rooms.intake.recover()
    rooms.clock.now += 3
    (staged,) = rooms.staged_files()
    rooms.sweep = rooms.new_sweep(min_free_bytes=1 << 60)  # a disk without room for anything
    with pytest.raises(StagingError):
        rooms.sweep.step()
    assert not staged.exists()
    assert len(rooms.segments()) == 1
    (claim,) = rooms.claims()  # what is owed is delivered from the spool
    assert claim.sop_instance_uid == "1.2.9"


def test_one_instance_that_cannot_be_copied_holds_up_no_other(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms, 3)
    rooms.writer.close()
    (segment,) = rooms.segments()
    (claim,) = (one for one in rooms.claims() if one.sop_instance_uid == "1.2.2")
    with segment.open("r+b") as file:
        file.truncate(claim.location.file_offset + 100)
    rooms.clock.now += 3
    with pytest.raises(StagingError):
        rooms.sweep.step()
    assert [rooms.jobs.trace(uid)[0].staged for uid in ("1.2.0", "1.2.1", "1.2.2")] == [True, True, False]
    assert rooms.segments() == [segment]


def test_what_was_kept_long_enough_does_not_come_back_out_of_an_open_segment(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=DAY)
    received(rooms)
    rooms.deliver_all()
    rooms.clock.now += 3
    rooms.sweep.step()
    rooms.clock.now += 2 * DAY
    for _ in range(2):
        rooms.sweep.step()
        assert rooms.staged_files() == []
    assert len(rooms.segments()) == 1
    rooms.writer.close()
    rooms.sweep.step()
    assert rooms.segments() == []


def test_one_file_that_cannot_be_deleted_holds_up_no_other_and_is_tried_again(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=DAY)
    received(rooms, 3)
    rooms.deliver_all()
    rooms.clock.now += 3
    rooms.sweep.step()
    first = rooms.staged_files()[0]
    first.rename(tmp_path / "aside")
    first.mkdir()  # unlink(2) refuses it
    (first / "in it").touch()
    rooms.clock.now += 2 * DAY
    for _ in range(2):
        with pytest.raises(StagingError):
            rooms.sweep.step()
        assert rooms.staged_files() == [first]
    (first / "in it").unlink()
    first.rmdir()
    rooms.sweep.step()
    assert rooms.jobs.purgeable(NODE, settled_before=None, limit=9) == []


def test_on_a_short_disk_what_is_only_kept_goes_and_what_is_owed_stays(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    received(rooms, 2)
    rooms.clock.now += 3
    rooms.sweep.step()
    assert len(rooms.staged_files()) == 2
    one, _ = rooms.claims()
    rooms.jobs.settle([Settlement(one, Delivered(), rooms.clock.now, rooms.clock.now)], rooms.clock.now)
    rooms.clock.now += 1
    rooms.new_sweep(min_free_bytes=1 << 60).step()
    (left,) = rooms.staged_files()
    assert dcmread(left).SOPInstanceUID != one.sop_instance_uid


def test_what_is_kept_for_ever_stays_on_a_short_disk_too(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=None)
    received(rooms)
    rooms.clock.now += 3
    rooms.sweep.step()
    rooms.deliver_all()
    rooms.clock.now += 1
    rooms.new_sweep(min_free_bytes=1 << 60).step()
    assert len(rooms.staged_files()) == 3


def test_an_identical_object_after_the_purge_brings_its_own_bytes(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, keep_seconds=0.0)
    received(rooms, 1)
    rooms.deliver_all()
    rooms.writer.close()
    rooms.sweep.step()
    assert rooms.segments() == []
    rooms.writer = rooms.new_writer()
    rooms.receive("1.2.0", association="a2")
    rooms.intake.recover()
    (claim,) = rooms.claims()
    with rooms.reader.pin(str(claim.location.generation)) as pin:
        view = pin.view(claim.location.dataset_offset, claim.location.dataset_length)
        assert bytes(view) == dataset("1.2.0")

"""Staging and job table are compared: rows come back, damage is found, and a second pass finds nothing to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relaypacs.intake.restoring import BATCH, LOOK_AT, QUEUE_SECONDS, Restoration, Restorer
from relaypacs.jobs.store import JobStore
from relaypacs.model import State
from relaypacs.staging.filesystem import FilesystemStaging
from relaypacs.staging.protocol import StagedObject
from tests.unit.relay_rooms import NODE, Rooms, dataset

FOREVER = 1e12


def staged(rooms: Rooms, count: int = 3) -> Rooms:
    """Everything received, staged, and its segment freed."""
    for number in range(count):
        rooms.receive(f"1.2.{number}", dataset(f"1.2.{number}", modality="CT" if number % 2 == 0 else "US"))
    rooms.intake.recover()
    rooms.writer.close()
    rooms.clock.now += 3
    while rooms.sweep.step():
        pass
    return rooms


def table_lost(rooms: Rooms) -> Rooms:
    """The job table is gone; a new one is empty."""
    rooms.jobs.close()
    for file in rooms.folder.glob("jobs.sqlite*"):
        file.unlink()
    rooms.jobs = JobStore.open(f"sqlite:///{rooms.folder}/jobs.sqlite")
    rooms.jobs.migrate()
    return rooms


def restorer(rooms: Rooms, queue_seconds: float = 0.0) -> Restorer:
    return Restorer(
        node=NODE, jobs=rooms.jobs, staging=rooms.staging, arrival_of=rooms.arrival_of, queue_seconds=queue_seconds
    )


def test_a_lost_table_is_rebuilt_and_everything_held(tmp_path: Path) -> None:
    rooms = staged(Rooms(tmp_path, keep_seconds=None), 5)
    before = [row for row in rooms.jobs.trace("1.2.3") if row.staged]
    book = rooms.jobs.ledger()
    table_lost(rooms)
    seen: list[int] = []
    done = restorer(rooms).run(on_progress=lambda done: seen.append(done.looked_at))
    assert (done.looked_at, done.restored, done.held, done.queued, done.unreadable) == (3, 3, 3, 0, 0)
    assert seen[-1] == done.looked_at
    after = {row.sop_instance_uid: row for row in rooms.jobs.trace("1.2.3")}
    for row in before:
        again = after[row.sop_instance_uid]
        for name in ("sop_class_uid", "transfer_syntax_uid", "series_instance_uid", "accession_number", "patient_id"):
            assert getattr(again, name) == getattr(row, name)
        assert (again.calling_ae, again.rule, again.verdict) == (row.calling_ae, row.rule, row.verdict)
        assert (again.staged, [one.state for one in again.deliveries]) == (True, [State.HELD])
    assert (rooms.jobs.ledger().instances, rooms.jobs.ledger().imbalance) == (3, 0)
    assert book.instances == 5, "what a rule dropped was never kept"
    assert restorer(rooms).run() == Restoration(looked_at=3)


def test_what_is_restored_can_be_sent_byte_for_byte(tmp_path: Path) -> None:
    rooms = staged(Rooms(tmp_path), 1)
    (was,) = [claim.location for claim in rooms.claims()]
    table_lost(rooms)
    done = restorer(rooms, FOREVER).run()
    assert (done.queued, done.held, done.notify) == (1, 0, {"pacs"})
    (claim,) = rooms.claims()
    at = claim.location
    assert (at.dataset_crc32c, at.dataset_length, at.file_length) == (
        was.dataset_crc32c, was.dataset_length, was.file_length,
    )  # fmt: skip
    with rooms.staging.open(at.staged_key or "") as file:
        assert bytes(file[at.dataset_offset - at.file_offset :]) == dataset("1.2.0")


def test_only_counting_changes_nothing(tmp_path: Path) -> None:
    rooms = table_lost(staged(Rooms(tmp_path), 1))
    assert restorer(rooms).run(only_count=True).restored == 1
    assert rooms.jobs.restoring.is_empty()


def test_more_than_one_piece_and_a_stop(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, segment_bytes=8 << 20)
    for number in range(LOOK_AT + BATCH + 5):
        rooms.receive(f"1.2.{number}")
    staged(rooms, 0)
    table_lost(rooms)
    cut = restorer(rooms)
    cut.run(stopped=lambda: cut.done.looked_at > 0)
    assert cut.done.restored == LOOK_AT
    rest = restorer(rooms).run()
    assert (rest.looked_at, rest.restored) == (LOOK_AT + BATCH + 5, BATCH + 5)


@pytest.mark.parametrize("damage", ["a flipped byte", "cut short", "no DICOM file", "another's name"])
def test_what_is_not_what_was_received_gets_no_row(tmp_path: Path, damage: str) -> None:
    rooms = table_lost(staged(Rooms(tmp_path), 3))
    path, other = rooms.staged_files()
    content = bytearray(path.read_bytes())
    if damage == "a flipped byte":
        content[-3] ^= 1
    elif damage == "cut short":
        del content[-10:]
    elif damage == "no DICOM file":
        content = bytearray(b"hello")
    else:
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    done = restorer(rooms).run()
    assert (done.restored, done.unreadable) == (1, 1)
    assert done.unreadable_keys == [str(path.relative_to(tmp_path / "staging"))]
    assert rooms.jobs.ledger().received == 1


class Copied(FilesystemStaging):
    """A stand-in for a bucket that was copied: every object is new, and says when it was received."""

    def describe(self, key: str, head_bytes: int) -> StagedObject:
        found = super().describe(key, head_bytes)
        assert found.facts is not None
        return replace(found, stored_at=NOW, facts=replace(found.facts, received_at=self.received_at))

    received_at = 0.0


NOW = 1_800_000_000.0


@pytest.mark.parametrize(("age_seconds", "state"), [(3600.0, State.QUEUED), (30 * 86400.0, State.HELD)])
def test_what_was_received_long_ago_is_held_however_new_its_copy(
    tmp_path: Path, age_seconds: float, state: State
) -> None:
    rooms = table_lost(staged(Rooms(tmp_path), 1))
    copied = Copied(tmp_path / "staging")
    copied.received_at = NOW - age_seconds
    Restorer(
        node=NODE,
        jobs=rooms.jobs,
        staging=copied,
        arrival_of=rooms.arrival_of,
        queue_seconds=QUEUE_SECONDS,
        clock=lambda: NOW,
    ).run()
    (row,) = rooms.jobs.trace("1.2.3")
    assert [one.state for one in row.deliveries] == [state]

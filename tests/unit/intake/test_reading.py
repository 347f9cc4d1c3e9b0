"""Intake on a real spool and job table: everything once, whatever is lost, damaged or repeated."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from relaypacs.model import Committed, Routed
from relaypacs.wake.hints import HintSender, poke
from tests.peers.ports import wait_until
from tests.unit.relay_rooms import Rooms, dataset


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(tmp_path)


def test_recovery_takes_in_everything_once(rooms: Rooms) -> None:
    for number in range(20):
        rooms.receive(f"1.2.{number}")
    assert rooms.intake.recover() == 20
    ledger = rooms.jobs.ledger()
    assert (ledger.received, ledger.instances, ledger.routed, ledger.imbalance) == (20, 20, 20, 0)
    rooms.hints.close()
    rooms.reopen()
    rooms.rows_changed.clear()
    assert rooms.intake.recover() == 0
    assert rooms.jobs.ledger() == ledger
    # What an earlier life left is finished only now: the sweep, which looked before, has to look again.
    assert rooms.rows_changed.is_set()


def test_what_was_taken_in_before_a_crash_is_not_taken_in_again(rooms: Rooms) -> None:
    rooms.receive("1.2.1")
    rooms.intake.recover()
    rooms.receive("1.2.2")
    rooms.hints.close()
    rooms.reopen()
    assert rooms.intake.recover() == 1
    assert rooms.jobs.ledger().duplicates == 0


def test_a_row_holds_what_the_head_says_and_no_name(rooms: Rooms) -> None:
    rooms.receive("1.2.1", dataset("1.2.1"))
    rooms.intake.recover()
    (row,) = rooms.jobs.trace("1.2.1")
    assert (row.study_instance_uid, row.accession_number, row.patient_id) == ("1.2.3", "ACC1", "PID1")
    assert (row.modality, row.study_date, row.calling_ae) == ("CT", "20260102", "CT_1")
    assert [delivery.destination for delivery in row.deliveries] == ["pacs"]
    assert rooms.notified == ["pacs"]


def test_rules_may_drop_and_what_no_rule_names_is_unrouted(rooms: Rooms) -> None:
    rooms.receive("1.2.1", dataset("1.2.1", modality="US"))
    rooms.receive("1.2.2", dataset("1.2.2", modality="MR"))
    rooms.intake.recover()
    assert rooms.jobs.trace("1.2.1")[0].verdict is Routed.DROPPED
    assert rooms.jobs.trace("1.2.2")[0].verdict is Routed.UNROUTED
    ledger = rooms.jobs.ledger()
    assert (ledger.dropped, ledger.unrouted, ledger.routed, ledger.imbalance) == (1, 1, 0, 0)


@pytest.mark.parametrize("data", [b"\xff" * 5000, b"", b"\0", dataset("1.2.1")[:31]])
def test_an_object_that_cannot_be_read_is_kept_and_flagged(rooms: Rooms, data: bytes) -> None:
    rooms.receive("1.2.1", data)
    rooms.receive("1.2.2")
    assert rooms.intake.recover() == 2
    (row,) = rooms.jobs.trace("1.2.1")
    assert row.problem
    assert rooms.jobs.trace("1.2.2")[0].problem == ""


def test_a_dataset_of_another_instance_than_the_request_is_flagged(rooms: Rooms) -> None:
    rooms.receive("1.2.1", dataset("1.2.9"))
    rooms.intake.recover()
    assert "SOP Instance UID" in rooms.jobs.trace("1.2.1")[0].problem


def test_hints_are_served_and_stop_ends_it(rooms: Rooms) -> None:
    rooms.intake.recover()
    thread = threading.Thread(target=rooms.intake.run)
    thread.start()
    sender = HintSender(rooms.folder / "hints")
    try:
        for number in range(5):
            sender.send(rooms.receive(f"1.2.{number}"))
            wait_until(lambda n=number: rooms.jobs.ledger().received == n + 1, "hint served", 3)  # type: ignore[misc]
    finally:
        rooms.intake.stop()
        poke(rooms.folder / "hints")
        thread.join(3)
        sender.close()
    assert not thread.is_alive()


def test_a_stream_of_objects_is_gathered_no_longer_than_until_a_taker_has_nothing_to_do(rooms: Rooms) -> None:
    class Endless:
        def wait(self, _timeout_seconds: float) -> list[tuple[str, int]]:
            return [("segment", 1)]

    rooms.intake._hints = Endless()  # type: ignore[assignment]
    rooms.intake._gather_most_seconds = 1000.0
    answers = iter([False, False, True])
    rooms.workers_idle = lambda: next(answers)
    assert len(rooms.intake._gather()) == 3


def test_a_hint_of_nonsense_changes_nothing(rooms: Rooms) -> None:
    rooms.intake.recover()
    thread = threading.Thread(target=rooms.intake.run)
    thread.start()
    sender = HintSender(rooms.folder / "hints")
    try:
        sender.send(Committed("0" * 32, 0, 0, 1 << 40))
        committed = rooms.receive("1.2.1")
        sender.send(committed)
        wait_until(lambda: rooms.jobs.ledger().received == 1, "hint served", 3)
    finally:
        rooms.intake.stop()
        poke(rooms.folder / "hints")
        thread.join(3)
        sender.close()
    assert rooms.jobs.ledger().imbalance == 0


def test_a_job_table_that_refuses_is_asked_again_and_nothing_is_skipped(rooms: Rooms) -> None:
    rooms.intake.recover()
    rooms.receive("1.2.1")
    # Another writer holds the database: the transaction can't begin until it lets go.
    blocker = sqlite3.connect(rooms.folder / "jobs.sqlite", isolation_level=None)
    blocker.execute("ALTER TABLE tally RENAME TO elsewhere")
    thread = threading.Thread(target=rooms.intake.recover)
    thread.start()
    thread.join(1.5)
    assert thread.is_alive()
    blocker.execute("ALTER TABLE elsewhere RENAME TO tally")
    blocker.close()
    thread.join(10)
    assert not thread.is_alive()
    ledger = rooms.jobs.ledger()
    assert (ledger.received, ledger.instances, ledger.imbalance) == (1, 1, 0)


def test_damage_is_passed_over_and_the_valid_rest_taken_in(rooms: Rooms) -> None:
    first, second, third = (rooms.receive(f"1.2.{number}") for number in range(3))
    assert first.generation == second.generation == third.generation
    rooms.writer.close()
    path = rooms.segments()[0]
    data = bytearray(path.read_bytes())
    data[second.offset + 3000] ^= 0xFF
    path.write_bytes(data)
    assert rooms.intake.recover() == 2
    assert [bool(rooms.jobs.trace(f"1.2.{number}")) for number in range(3)] == [True, False, True]
    # The damaged segment is kept for people, whole.
    rooms.clock.now += 10
    rooms.sweep.step()
    assert rooms.segments() == []
    assert [p.name for p in (rooms.folder / "spool" / "quarantine").glob("*.tar")] == [path.name]


def test_finished_only_when_sealed_and_read(rooms: Rooms) -> None:
    committed = rooms.receive("1.2.1")
    rooms.intake.recover()
    assert not rooms.intake.finished(committed.generation)  # the writer may still append
    rooms.receive("1.2.2")
    rooms.writer.close()
    assert not rooms.intake.finished(committed.generation)  # one record is not in the job table
    rooms.intake.recover()
    assert rooms.intake.finished(committed.generation)


def test_all_is_read_when_every_record_there_is_has_rows(rooms: Rooms) -> None:
    assert rooms.intake.all_read(), "there is nothing"
    rooms.receive("1.2.1")
    assert not rooms.intake.all_read(), "it was never looked at"
    rooms.intake.recover()
    assert rooms.intake.all_read(), "the writer may still append"
    rooms.receive("1.2.2")
    assert not rooms.intake.all_read()
    rooms.intake.recover()
    assert rooms.intake.all_read()


def test_a_poke_is_passed_on(rooms: Rooms) -> None:
    rooms.intake.recover()
    thread = threading.Thread(target=rooms.intake.run)
    thread.start()
    try:
        poke(rooms.folder / "hints")
        assert rooms.poked.wait(3)
    finally:
        rooms.intake.stop()
        poke(rooms.folder / "hints")
        thread.join(3)


def test_a_commit_without_objects_wakes_the_sweep_too(rooms: Rooms) -> None:
    rooms.intake.recover()
    rooms.rows_changed.clear()
    thread = threading.Thread(target=rooms.intake.run)
    thread.start()
    sender = HintSender(rooms.folder / "hints")
    try:
        sender.send(rooms.writer.append_event("associations", 1.0, {"ends": []}))  # may be the last of a segment
        assert rooms.rows_changed.wait(3)
    finally:
        rooms.intake.stop()
        poke(rooms.folder / "hints")
        thread.join(3)
        sender.close()

"""What intake has not read yet, as the sidecar finds it: in segments that are being written, and in many."""

from __future__ import annotations

from pathlib import Path

from relaypacs.model import Checkpoint
from relaypacs.sidecar.backlog import Backlog, look
from relaypacs.spool.segment import SEGMENTS
from tests.unit.spool.made import data, meta, put, reader, writer

FIRST = meta().received_at


def _at(folder: Path, generation: str, records: int) -> Checkpoint:
    """How far an intake that has read so many records is."""
    return reader(folder).read(Checkpoint(generation), committed_end=None, max_records=records)[1]


def test_a_spool_that_is_not_there_or_holds_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "absent", {}, FIRST) == Backlog(0, 0.0, 0, 0.0)
    writer(tmp_path).close()
    assert look(tmp_path, {}, FIRST) == Backlog(0, 0.0, 0, 0.0)


def test_what_intake_has_read_is_no_backlog(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    generation = {put(spool, data(3000, number), number).generation for number in range(4)}.pop()
    now = FIRST + 100
    assert look(tmp_path, {}, now).unread_bytes == 12_000
    assert look(tmp_path, {}, now).unread_seconds == 100
    found = look(tmp_path, {generation: _at(tmp_path, generation, 3)}, now)
    assert (found.unread_bytes, found.unread_seconds) == (3000, 97)
    found = look(tmp_path, {generation: _at(tmp_path, generation, 4)}, now)
    assert (found.unread_bytes, found.unread_seconds) == (0, 0)
    assert found.in_use_bytes >= 4 * 4096
    # An object that is being received is not committed, so nobody has to read it.
    append = spool.begin(meta(9))
    append.write([data(200_000, 9)])
    assert look(tmp_path, {generation: _at(tmp_path, generation, 4)}, now).unread_bytes == 0
    append.abandon()
    spool.close()


def test_a_long_backlog_costs_a_bounded_look(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    for number in range(2600):
        put(spool, data(100, number), number)
    spool.close()
    segments = list((tmp_path / SEGMENTS).iterdir())
    assert len(segments) > 5
    found = look(tmp_path, {}, FIRST + 5000)
    assert found.unread_seconds == 5000, "the oldest is in the first segment"
    assert 260_000 <= found.unread_bytes <= found.in_use_bytes

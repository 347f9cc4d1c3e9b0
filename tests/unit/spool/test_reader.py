"""The reader: hints, proof without hints, pins, freeing, quarantine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from relaypacs.errors import SegmentGone, SpoolCorrupt
from relaypacs.model import Checkpoint, ObjectRecord
from tests.unit.spool.made import data, meta, put, read_all, reader, stream, writer


def _flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_a_hint_is_read_to_its_end_and_no_further(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    first, second, third = (put(spool, data(5000, number), number) for number in range(3))
    read = reader(tmp_path)
    records, after = read.read(Checkpoint(first.generation), committed_end=second.end)
    assert [record.at for record in records] == [first, second]
    assert read.read(after, committed_end=first.end) == ([], after)
    records, after = read.read(after, committed_end=third.end)
    assert [record.at for record in records] == [third]
    assert read.read(after, committed_end=None) == ([], after)


def test_without_a_hint_a_live_segment_is_followed(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    first = put(spool, b"a")
    read = reader(tmp_path)
    records, after = read.read(Checkpoint(first.generation), committed_end=None)
    assert [record.at for record in records] == [first]
    append = spool.begin(meta(1))
    append.write([data(50_000)])
    assert read.read(after, committed_end=None) == ([], after)
    second = append.commit()
    records, after = read.read(after, committed_end=None)
    assert [record.at for record in records] == [second]


def test_pins_lend_bytes_while_the_segment_grows_and_hold_it(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    first = put(spool, data(5000, 1), 1)
    read = reader(tmp_path)
    (record,) = read_all(read, first.generation)
    assert isinstance(record, ObjectRecord)
    with read.pin(first.generation) as pin:
        view = pin.view(record.dataset_offset, record.dataset_length)
        put(spool, data(900_000, 2), 2)
        second = read_all(read, first.generation)[1]
        assert isinstance(second, ObjectRecord)
        assert pin.view(second.dataset_offset, second.dataset_length) == data(900_000, 2)
        assert view == data(5000, 1)
        spool.close()
        assert not read.free(first.generation)
        with pytest.raises(SegmentGone):
            pin.view(0, 1 << 40)
    assert read.free(first.generation)
    with pytest.raises(SegmentGone):
        read.pin(first.generation)
    with pytest.raises(SegmentGone):
        read.read(Checkpoint(first.generation), committed_end=None)


def test_what_a_writer_holds_is_not_freed(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    at = put(spool, b"x")
    read = reader(tmp_path)
    assert not read.is_sealed(at.generation)
    assert not read.free(at.generation)
    spool.close()
    assert read.is_sealed(at.generation)
    assert read.free(at.generation)
    assert read.free(at.generation), "free is idempotent"
    assert read.generations() == []


def test_freed_files_are_reused_and_no_more_kept_than_asked(tmp_path: Path) -> None:
    spool = writer(tmp_path, held_bytes=0)
    appends = [stream(spool, number) for number in range(5)]
    for append in appends:
        append.commit()
    spool.close()
    read = reader(tmp_path)
    keeps_two = type(read)(tmp_path, recycle=True, recycle_segments=2)
    assert all(keeps_two.free(generation) for generation in keeps_two.generations())
    kept = {path.stat().st_ino for path in (tmp_path / "free").iterdir()}
    assert len(kept) == 2
    spool = writer(tmp_path)
    put(spool, b"x")
    (used,) = (tmp_path / "segments").iterdir()
    assert used.stat().st_ino in kept


def test_an_overgrown_segment_is_deleted(tmp_path: Path) -> None:
    spool = writer(tmp_path, segment_bytes=1 << 16)
    at = put(spool, data(200_000))
    read = type(reader(tmp_path))(tmp_path, recycle=True, recycle_segments=9, segment_bytes=1 << 16)
    assert read.free(at.generation)
    assert list((tmp_path / "free").iterdir()) == []


def test_damage_is_raised_where_reading_reaches_it_and_the_rest_is_delivered(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    ends = [put(spool, data(9000, number), number) for number in range(5)]
    spool.close()
    generation = ends[0].generation
    _flip(tmp_path / "segments" / f"{generation}.tar", ends[2].offset + 5000)
    read = reader(tmp_path)
    records, after = read.read(Checkpoint(generation), committed_end=None)
    assert [record.at for record in records] == ends[:2]
    with pytest.raises(SpoolCorrupt, match=r"record 2 .* payload fails its checksum") as raised:
        read.read(after, committed_end=None)
    assert raised.value.resume is not None
    records, after = read.read(raised.value.resume, committed_end=None)
    assert [record.at for record in records] == ends[3:]
    assert read.read(after, committed_end=None) == ([], after)
    # Also a reader that never saw the damage sets the file aside instead of reusing it.
    fresh = reader(tmp_path)
    assert fresh.free(generation)
    assert fresh.quarantined() == [generation]
    assert list((tmp_path / "free").iterdir()) == []
    assert fresh.generations() == []


def test_a_hint_beyond_damage_is_corruption(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    at = put(spool, data(9000))
    _flip(tmp_path / "segments" / f"{at.generation}.tar", at.offset + 900)
    read = reader(tmp_path)
    with pytest.raises(SpoolCorrupt, match="header fails its checksum"):
        read.read(Checkpoint(at.generation), committed_end=at.end)


def test_quarantine_keeps_the_file_whole(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    at = put(spool, data(9000))
    spool.close()
    read = reader(tmp_path)
    before = (tmp_path / "segments" / f"{at.generation}.tar").read_bytes()
    aside = read.quarantine(at.generation)
    assert aside.read_bytes() == before
    assert read.generations() == []
    with pytest.raises(SegmentGone):
        read.quarantine(at.generation)


def test_nothing_is_published_beyond_a_retired_segments_end(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    first, second = put(spool, b"a"), put(spool, b"b")
    spool.close()
    marker = tmp_path / "segments" / f"{first.generation}.retired"
    marker.write_text(f'{{"committed_end": {first.end}, "records": 1}}')
    read = reader(tmp_path)
    assert [record.at for record in read_all(read, first.generation)] == [first]
    assert read.free(first.generation)
    assert list((tmp_path / "free").iterdir()) == []
    assert not marker.exists()
    assert second.generation == first.generation


def test_a_folder_for_reuse_that_was_deleted_leaves_no_segment_behind(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    committed = put(spool, b"a")
    spool.close()
    read = reader(tmp_path)
    shutil.rmtree(tmp_path / "free")
    assert read.free(committed.generation)
    assert read.generations() == []  # else its records would be taken in, and delivered, again
    again = writer(tmp_path)
    shutil.rmtree(tmp_path / "free")
    assert put(again, b"b").generation in read.generations()

"""Recovery over bytes: exactly the committed prefix, whatever the crash left; damage in front of records is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.model import Checkpoint, ObjectRecord
from relaypacs.spool.format import PAGE
from relaypacs.spool.recover import Ending, Scan, scan
from tests.unit.spool.made import data, over_bytes, put, reader, writer

SIZES = (0, 1, 500, 700, 4096, 5000, 12000, 3 * 4096 - 100)


def _written(folder: Path, sizes: tuple[int, ...], *, sealed: bool = True) -> tuple[str, bytes, list[int]]:
    """A segment with objects of those sizes: generation, bytes, where each record ends."""
    spool = writer(folder)
    ends = [put(spool, data(size, number), number).end for number, size in enumerate(sizes)]
    (path,) = (folder / "segments").iterdir()
    if sealed:
        spool.close()
    image = path.read_bytes()
    spool.close()
    return path.stem, image, ends


def _scan(generation: str, image: bytes, **kw: int) -> Scan:
    return scan(over_bytes(image), Checkpoint(generation), size=len(image), **kw)


def test_everything_committed_is_found(tmp_path: Path) -> None:
    generation, image, ends = _written(tmp_path, SIZES)
    found = _scan(generation, image)
    assert found.ending is Ending.SEALED
    assert [record.at.end for record in found.records] == ends
    for number, record in enumerate(found.records):
        assert isinstance(record, ObjectRecord)
        lies = image[record.dataset_offset : record.dataset_offset + record.dataset_length]
        assert lies == data(SIZES[number], number)
        assert image[record.file_offset + 128 : record.file_offset + 132] == b"DICM"


def test_reading_goes_on_at_any_checkpoint(tmp_path: Path) -> None:
    generation, image, ends = _written(tmp_path, SIZES)
    checkpoint = Checkpoint(generation)
    for end in ends:
        found = scan(over_bytes(image), checkpoint, size=len(image), max_records=1)
        assert [record.at.end for record in found.records] == [end]
        assert found.ending is Ending.MORE or end == ends[-1]
        checkpoint = found.checkpoint
    assert scan(over_bytes(image), checkpoint, size=len(image)).ending is Ending.SEALED


def test_a_segment_cut_anywhere_gives_the_whole_records_before_the_cut(tmp_path: Path) -> None:
    generation, image, ends = _written(tmp_path, SIZES)
    cuts = {cut + odd for cut in range(0, len(image) + 1, 512) for odd in (-1, 0, 1, 7)}
    for cut in sorted(cut for cut in cuts if 0 <= cut <= len(image)):
        found = _scan(generation, image[:cut])
        assert [record.at.end for record in found.records] == [end for end in ends if end <= cut]
        assert found.ending in {Ending.TORN, Ending.CLEAN, Ending.SEALED}
        # The same where the file kept its length and the rest never reached the disk.
        found = _scan(generation, image[:cut] + bytes(len(image) - cut))
        whole = [record.at.end for record in found.records]
        assert whole == ends[: len(whole)]
        assert len(whole) >= sum(end <= cut for end in ends)
        assert found.ending is not Ending.CORRUPT


@settings(deadline=None, max_examples=20)
@given(bit=st.integers(0, 7), step=st.integers(23, 97))
def test_a_flipped_byte_is_torn_in_the_last_record_and_corruption_before(
    tmp_path_factory: pytest.TempPathFactory, bit: int, step: int
) -> None:
    generation, image, ends = _written(tmp_path_factory.mktemp("s"), SIZES, sealed=False)
    for at in range(step, ends[-1], step):
        changed = bytearray(image)
        changed[at] ^= 1 << bit
        found = _scan(generation, bytes(changed))
        hit = sum(end <= at for end in ends)
        assert [record.at.end for record in found.records] == ends[:hit], at
        if hit == len(ends) - 1:
            assert found.ending is Ending.TORN
        else:
            assert found.ending is Ending.CORRUPT
            assert found.resume == Checkpoint(generation, ends[hit], hit + 1, found.resume.chain if found.resume else 0)
            assert found.resume is not None
            rest = scan(over_bytes(bytes(changed)), found.resume, size=len(image))
            assert [record.at.end for record in rest.records] == ends[hit + 1 :]


def test_a_flipped_byte_in_the_last_record_of_a_sealed_segment_is_corruption(tmp_path: Path) -> None:
    generation, image, ends = _written(tmp_path, SIZES)
    for at in range(ends[-2] + 5, ends[-1], 101):
        changed = bytearray(image)
        changed[at] ^= 4
        found = _scan(generation, bytes(changed))
        assert [record.at.end for record in found.records] == ends[:-1]
        assert found.ending is Ending.CORRUPT
        assert found.resume is not None
        assert scan(over_bytes(bytes(changed)), found.resume, size=len(image)).ending is Ending.SEALED


def test_nothing_of_an_earlier_life_is_found(tmp_path: Path) -> None:
    sizes = (700, 5000, 12000)
    generation, old, ends = _written(tmp_path, sizes)
    assert reader(tmp_path).free(generation)
    spool = writer(tmp_path)
    end = put(spool, data(700, 0), 0).end
    (path,) = (tmp_path / "segments").iterdir()
    image = path.read_bytes()
    assert path.stem != generation
    assert image[ends[1] :] == old[ends[1] :]
    found = _scan(path.stem, image)
    assert [record.at.end for record in found.records] == [end]
    assert found.ending is Ending.CLEAN
    # No page of the new life reached the disk: same sizes, same offsets, valid checksums, and still nothing.
    found = _scan(path.stem, old)
    assert found.records == []
    assert found.ending is Ending.TORN
    # All but the new header did.
    found = _scan(path.stem, old[:PAGE] + image[PAGE:])
    assert found.records == []
    assert found.ending is not Ending.CORRUPT


def test_falling_short_of_a_durable_end_is_corruption(tmp_path: Path) -> None:
    generation, image, ends = _written(tmp_path, SIZES)
    assert _scan(generation, image, stop=ends[3]).checkpoint.end == ends[3]
    changed = bytearray(image)
    changed[ends[2] + 600] ^= 1
    found = scan(over_bytes(bytes(changed)), Checkpoint(generation), size=ends[3], stop=ends[3])
    assert [record.at.end for record in found.records] == ends[:3]
    assert found.ending is Ending.CORRUPT
    assert found.resume is None

"""Sizes at which 32 bits, ustar or memory end."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from google_crc32c import extend

from relaypacs.model import Checkpoint, ObjectRecord
from tests.unit.spool.made import meta, put, read_all, reader, writer

CHUNK = bytes(range(256)) * 4096
GIB = 1 << 30


def _store(folder: Path, length: int) -> None:
    """An object of `length` bytes between two small ones, written, read back in every way, with little memory."""
    if shutil.disk_usage(folder).free < length + (2 << 30):
        pytest.skip("needs more free disk")
    spool = writer(folder, max_object_bytes=1 << 40, durable=True)
    before = put(spool, b"before", 0)
    crc = 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    append = spool.begin(meta(1))
    for at in range(0, length, len(CHUNK)):
        piece = CHUNK[: length - at]
        append.write([piece])
        crc = extend(crc, piece)
    big = append.commit()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    assert grown < 32 << 10, "kibibytes"
    assert big.generation == before.generation
    spool.close()
    read = reader(folder)
    records = read_all(read, big.generation)
    assert [record.at for record in records] == [before, big]
    record = records[1]
    assert isinstance(record, ObjectRecord)
    assert (record.dataset_length, record.dataset_crc32c) == (length, crc)
    with read.pin(big.generation) as pin:
        last = pin.view(record.dataset_offset + length - 10, 10)
        assert last == bytes((length - 10 + index) & 0xFF for index in range(10))
    assert read.read(Checkpoint(big.generation), committed_end=big.end)[0] == records
    path = folder / "segments" / f"{big.generation}.tar"
    with tarfile.open(path) as archive:
        assert [member.size for member in archive.getmembers()][1] == record.file_length
    listed = subprocess.run(["tar", "tvf", path], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert str(record.file_length) in listed.stdout.splitlines()[1]
    assert read.free(big.generation)
    assert list((folder / "free").iterdir()) == [], "far over its size: deleted, not kept"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("length", [4 * GIB - 600, 4 * GIB - 1, 4 * GIB, 4 * GIB + 1, 8 * GIB + 1], ids=str)
def test_both_sides_of_4_gib_and_8_gib(tmp_path: Path, length: int) -> None:
    _store(tmp_path, length)


def test_a_large_object_takes_no_memory(tmp_path: Path) -> None:
    _store(tmp_path, 200 << 20)


def test_an_object_in_tiny_fragments(tmp_path: Path) -> None:
    payload = os.urandom(70_001)
    spool = writer(tmp_path)
    append = spool.begin(meta())
    for at in range(0, len(payload), 7):
        append.write([memoryview(payload)[at : at + 3], b"", memoryview(payload)[at + 3 : at + 7]])
    at = append.commit()
    read = reader(tmp_path)
    (record,) = read_all(read, at.generation)
    assert isinstance(record, ObjectRecord)
    with read.pin(at.generation) as pin:
        assert pin.view(record.dataset_offset, record.dataset_length) == payload

"""A segment is a tar: GNU tar without a warning, Python's tarfile, and pydicom and dcmdump on what comes out."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pydicom
import pytest

from relaypacs.model import Committed
from relaypacs.spool.writer import SpoolWriter
from tests.samples import samples
from tests.unit.spool.made import data, meta, put, reader, writer


def _tar(*arguments: str) -> list[str]:
    done = subprocess.run(["tar", *arguments], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def _dcmdump(file: Path) -> int:
    return subprocess.run(["/usr/bin/dcmdump", "-q", str(file)], capture_output=True).returncode


def _fill(spool: SpoolWriter, count: int) -> list[Committed]:
    told = [put(spool, data(number * 301, number), number) for number in range(count)]
    spool.append_event("association", 1_700_000_000.0, {"outcome": "released"})
    return told


@pytest.mark.parametrize("sealed", [True, False])
def test_tar_and_python_list_a_segment(tmp_path: Path, sealed: bool) -> None:
    spool = writer(tmp_path)
    told = _fill(spool, 40)
    if sealed:
        spool.close()
    path = tmp_path / "segments" / f"{told[0].generation}.tar"
    prefix = path.stem[:16]
    names = [f"{prefix}-{number:06d}-assoc-{number}.dcm" for number in range(40)]
    names += [f"{prefix}-000040-association.json", f"{prefix}-end.json"]
    assert _tar("tf", str(path)) == names
    assert len(_tar("tvf", str(path))) == 42
    with tarfile.open(path) as archive:
        assert archive.getnames() == names
    spool.close()


def test_a_recycled_file_lists_only_its_new_life(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    old = _fill(spool, 40)
    spool.close()
    assert reader(tmp_path).free(old[0].generation)
    spool = writer(tmp_path, held_bytes=0)
    for count in (0, 1, 2, 3):
        append = spool.begin(meta(9))
        append.write([data(20_000)])
        append.abandon()
        (path,) = (tmp_path / "segments").iterdir()
        assert len(_tar("tvf", str(path))) == count + 1
        with tarfile.open(path) as archive:
            assert len(archive.getnames()) == count + 1
        put(spool, data(4096 * count + 100 * count), count)
    assert path.stat().st_size > 40 * 4096


def test_what_tar_extracts_is_what_was_received(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    sent = [sample for sample in samples()[:60] if sample.sendable]
    for number, sample in enumerate(sent):
        append = spool.begin(
            meta(
                number,
                sop_class_uid=sample.sop_class_uid,
                sop_instance_uid=sample.sop_instance_uid,
                transfer_syntax_uid=sample.transfer_syntax_uid,
            )
        )
        append.write([sample.dataset()])
        append.commit()
    spool.close()
    (path,) = (tmp_path / "segments").iterdir()
    out = tmp_path / "out"
    out.mkdir()
    _tar("xf", str(path), "-C", str(out))
    files = sorted(out.glob("*.dcm"))
    assert len(files) == len(sent)
    for file, sample in zip(files, sent, strict=True):
        assert file.read_bytes().endswith(sample.dataset())
        read = pydicom.dcmread(file, stop_before_pixels=True)
        assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
        # Some samples are broken: then both are, in the same way.
        assert _dcmdump(file) == _dcmdump(sample.path), sample.name

"""What the sample files are, checked against pydicom, and that generated ones are what they claim."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from tests import samples


def test_all_installed_samples_are_found() -> None:
    every = samples.samples()
    assert len(every) >= 259
    assert len({one.path for one in every}) == len(every)
    assert len(samples.sendable()) >= 240
    assert len({one.transfer_syntax_uid for one in samples.sendable()}) >= 12
    assert len({one.sop_class_uid for one in samples.sendable()}) >= 17
    assert {one.path.parent.name for one in every} >= {"dicom_files", "charset_files", "palettes"}
    assert any("data_store" in str(one.path) for one in every)


@pytest.mark.filterwarnings("ignore")
def test_the_walker_agrees_with_pydicom() -> None:
    for one in samples.sendable():
        with one.path.open("rb") as file:
            meta = pydicom.filereader.read_file_meta_info(one.path)
            pydicom.filereader.read_preamble(file, False)
            pydicom.filereader._read_file_meta_info(file)
            offset = file.tell()
        assert one.transfer_syntax_uid == meta.TransferSyntaxUID, one.name
        assert one.sop_instance_uid == meta.MediaStorageSOPInstanceUID, one.name
        assert one.sop_class_uid == meta.MediaStorageSOPClassUID, one.name
        assert one.dataset_offset == offset, one.name


def test_what_cannot_be_sent_says_why() -> None:
    reasons = {one.path.name: one.reason for one in samples.samples() if not one.sendable}
    assert reasons["DICOMDIR"] == "a DICOMDIR"
    assert reasons["no_meta.dcm"] == "no File Meta"
    assert reasons["CTImageStorage_bad_meta.dcm"] == "File Meta without SOP class"


def test_rounds_never_repeat_a_uid() -> None:
    parts = samples.rounds(samples.sendable())
    assert sum(len(part) for part in parts) == len(samples.sendable())
    assert len(parts) > 1
    for part in parts:
        assert len({one.sop_instance_uid for one in part}) == len(part)
        assert len({one.own_uid or one.name for one in part}) == len(part)


def test_a_series_is_a_series(tmp_path: Path) -> None:
    paths = samples.write_ct_series(tmp_path, 3)
    read = [pydicom.dcmread(path) for path in paths]
    assert len({image.SOPInstanceUID for image in read}) == 3
    assert len({image.SeriesInstanceUID for image in read}) == 1
    assert len({image.PixelData for image in read}) == 3
    assert all(len(image.PixelData) == 512 * 512 * 2 for image in read)
    again = samples.write_ct_series(tmp_path / "again", 1)
    assert again[0].read_bytes() == paths[0].read_bytes()
    other = samples.read_sample(samples.write_ct_series(tmp_path / "other", 1, seed="other")[0])
    assert other.sop_instance_uid != read[0].SOPInstanceUID
    [small] = samples.write_mr_series(tmp_path / "mr", 1)
    assert 33_000 < small.stat().st_size < 34_500


def test_a_multi_frame_object_is_streamed_to_its_size(tmp_path: Path) -> None:
    one = samples.write_multi_frame(tmp_path / "large.dcm", 6 << 20)
    assert one.sendable
    image = pydicom.dcmread(one.path)
    assert image.NumberOfFrames == 3
    assert len(image.PixelData) == 6 << 20
    assert [image.PixelData[number << 20] for number in range(6)] == list(range(6))

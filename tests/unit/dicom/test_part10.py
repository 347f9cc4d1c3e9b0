"""File heads: what we write others read, what others write we read, and what is no file says so."""

from __future__ import annotations

import io
import struct

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaypacs.dicom.part10 import file_head, read_file_head

MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
DATASET = b"\x08\x00\x60\x00CS\x02\x00MR"


@pytest.mark.parametrize("source_ae", ["", "A", "MODALITY", "SIXTEEN_LETTERS_"])
def test_pydicom_reads_what_is_written(source_ae: str) -> None:
    head = file_head(MR, "1.2.3", EXPLICIT, source_ae=source_ae)
    read = pydicom.dcmread(io.BytesIO(head + DATASET))
    assert read.Modality == "MR"
    assert read.preamble == bytes(128)
    meta = read.file_meta
    assert (meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID) == (MR, "1.2.3")
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.FileMetaInformationGroupLength == len(head) - 144
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.ImplementationClassUID.is_valid
    assert meta.get("SourceApplicationEntityTitle", "") == source_ae


@given(
    *[st.text(st.characters(codec="ascii", exclude_characters="\0 "), min_size=1, max_size=70)] * 3,
    st.text(max_size=16),
)
def test_what_is_written_is_read(sop_class: str, instance: str, syntax: str, source_ae: str) -> None:
    head = file_head(sop_class, instance, syntax, source_ae=source_ae)
    read = read_file_head(head + DATASET, file_length=len(head) + len(DATASET))
    assert read == (
        sop_class,
        instance,
        syntax,
        len(head),
        source_ae.strip("\0 ") if source_ae.isascii() else read.source_ae,
    )
    assert read_file_head(head, file_length=len(head)).dataset_offset == len(head), "an empty dataset"


def test_a_value_no_field_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than its length field"):
        file_head(MR, "1" * 70_000, EXPLICIT, source_ae="")


def test_a_wrong_group_length_is_harmless() -> None:
    head = bytearray(file_head(MR, "1.2.3", EXPLICIT, source_ae="X"))
    head[140:144] = struct.pack("<I", 7)
    assert read_file_head(bytes(head) + DATASET, file_length=len(head) + 10).dataset_offset == len(head)


@pytest.mark.parametrize("keep", [0, 100, 131, 132, 140, 150, 170, 200, 250])
def test_a_cut_head_is_refused(keep: int) -> None:
    head = file_head(MR, "1.2.3", EXPLICIT, source_ae="X")
    with pytest.raises(ValueError, match=r"no DICM|cut short|has no"):
        read_file_head(head[:keep], file_length=keep)


def test_other_files_are_refused() -> None:
    head = file_head(MR, "1.2.3", EXPLICIT, source_ae="X")
    with pytest.raises(ValueError, match="no DICM at byte 128"):
        read_file_head(b"MZ" + bytes(400), file_length=402)
    with pytest.raises(ValueError, match="Explicit VR"):
        read_file_head(head[:132] + struct.pack("<HHI", 2, 0, 4) + bytes(90), file_length=234)
    with pytest.raises(ValueError, match=r"\(0002,0010\)"):
        read_file_head(
            head[:144] + head[144:].replace(b"\x02\x00\x10\x00", b"\x02\x00\x11\x00") + DATASET, file_length=999
        )
    lying = head[:144] + b"\x02\x00\x02\x01OB\0\0\xff\xff\xff\x7f"
    with pytest.raises(ValueError, match="cut short"):
        read_file_head(lying, file_length=len(lying))


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_sentence(noise: bytes) -> None:
    for prefix in (noise, bytes(128) + b"DICM" + noise):
        with pytest.raises(ValueError, match=r"File Meta|DICM"):
            read_file_head(prefix, file_length=len(prefix))

"""A small image that is nobody's, for trying a destination: Secondary Capture, 16 x 16, named as what it is. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from relaypacs.dicom.contexts import EXPLICIT_VR_LITTLE_ENDIAN
from relaypacs.dicom.part10 import file_head

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PATIENT_ID = "RELAYPACS-TEST"
_SIDE = 16


@dataclass(frozen=True, slots=True)
class Synthetic:
    """The object: a Part 10 file, and where its dataset begins in it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    file: bytes
    dataset_offset: int


def synthetic(number: int) -> Synthetic:
    """One whose UIDs are of `number` (a UUID's, PS3.5 B.2), so that it is new to everybody."""
    study, series, instance = (f"2.25.{number + more}" for more in range(3))
    us = struct.Struct("<H")
    elements = [
        (0x0008, 0x0016, "UI", SECONDARY_CAPTURE.encode()),
        (0x0008, 0x0018, "UI", instance.encode()),
        (0x0008, 0x0020, "DA", b""),
        (0x0008, 0x0030, "TM", b""),
        (0x0008, 0x0050, "SH", b""),
        (0x0008, 0x0060, "CS", b"OT"),
        (0x0008, 0x0064, "CS", b"SYN"),
        (0x0008, 0x0090, "PN", b""),
        (0x0008, 0x1030, "LO", b"RelayPACS destination test: delete me"),
        (0x0010, 0x0010, "PN", b"RELAYPACS^TEST"),
        (0x0010, 0x0020, "LO", PATIENT_ID.encode()),
        (0x0010, 0x0030, "DA", b""),
        (0x0010, 0x0040, "CS", b"O"),
        (0x0020, 0x000D, "UI", study.encode()),
        (0x0020, 0x000E, "UI", series.encode()),
        (0x0020, 0x0010, "SH", b""),
        (0x0020, 0x0011, "IS", b"1"),
        (0x0020, 0x0013, "IS", b"1"),
        (0x0028, 0x0002, "US", us.pack(1)),
        (0x0028, 0x0004, "CS", b"MONOCHROME2"),
        (0x0028, 0x0010, "US", us.pack(_SIDE)),
        (0x0028, 0x0011, "US", us.pack(_SIDE)),
        (0x0028, 0x0100, "US", us.pack(8)),
        (0x0028, 0x0101, "US", us.pack(8)),
        (0x0028, 0x0102, "US", us.pack(7)),
        (0x0028, 0x0103, "US", us.pack(0)),
        (0x7FE0, 0x0010, "OB", bytes(range(_SIDE * _SIDE))),
    ]
    head = file_head(SECONDARY_CAPTURE, instance, EXPLICIT_VR_LITTLE_ENDIAN, source_ae="RELAYPACS")
    body = b"".join(_element(*one) for one in elements)
    return Synthetic(study, series, instance, head + body, len(head))


def _element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """A data element in Explicit VR Little Endian (PS3.5 7.1.2)."""
    value += (b"\0" if vr in ("UI", "OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", group, number, vr.encode())
    return head + (struct.pack("<HI", 0, len(value)) if vr == "OB" else struct.pack("<H", len(value))) + value

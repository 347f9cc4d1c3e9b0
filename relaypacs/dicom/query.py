"""C-FIND for the instances of a series (PS3.4 C.4.1, Study Root): the identifier that asks, and whom an answer names.

Used by `forward.find`. Pure; answers are read by `dicom.head`, at a bounded cost whatever a peer sends.
"""

from __future__ import annotations

import struct

from relaypacs.dicom.contexts import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from relaypacs.dicom.head import walk_head

STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"  # PS3.4 C.6.2.3
SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
"""What identifiers may be encoded in here."""
SUCCESS, PENDING, PENDING_WITHOUT_KEYS = 0x0000, 0xFF00, 0xFF01  # PS3.4 table C.4-1
_EXPLICIT, _IMPLICIT = struct.Struct("<HH2sH"), struct.Struct("<HHI")


def instances_of(study: str, series: str, transfer_syntax: str, instance: str = "") -> bytes:
    """The identifier that asks for every instance of a series, or for one (PS3.4 C.6.2.1, IMAGE level).

    The UIDs must be valid: anything else may be a wildcard.
    """
    keys = (
        (0x0008, 0x0018, b"UI", instance),
        (0x0008, 0x0052, b"CS", "IMAGE"),
        (0x0020, 0x000D, b"UI", study),
        (0x0020, 0x000E, b"UI", series),
    )
    return b"".join(_element(*key, explicit=transfer_syntax != IMPLICIT_VR_LITTLE_ENDIAN) for key in keys)


def _element(group: int, number: int, vr: bytes, text: str, *, explicit: bool) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    if explicit:
        return _EXPLICIT.pack(group, number, vr, len(value)) + value
    return _IMPLICIT.pack(group, number, len(value)) + value


def named_instance(identifier: bytes, transfer_syntax: str) -> str:
    """The SOP Instance UID of an answer; empty if it names none."""
    return walk_head(identifier, transfer_syntax, frozenset()).sop_instance_uid

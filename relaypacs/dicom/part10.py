"""The head of a DICOM Part 10 file (PS3.10 section 7.1): written for what is received, read for what is sent.

`spool/` writes `file_head` in front of each dataset; `cli send` and the forward rooms find the dataset of a file with
`read_file_head`. Pure: bytes in, bytes out. The preamble is always zeros: DIMSE carries none, and whatever a sender's
file had there (polyglots) stops here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
META_OFFSET = PREAMBLE_BYTES + len(MAGIC)
_PREFIX = bytes(PREAMBLE_BYTES) + MAGIC

IMPLEMENTATION_CLASS_UID = "2.25.176018297532617064105276183906184375126"
"""(0002,0012): who wrote the file. A UUID-derived UID (PS3.5 B.2), fixed for the product."""
IMPLEMENTATION_VERSION_NAME = "RELAYPACS_1"
"""(0002,0013), SH: at most 16 characters."""

# VRs whose explicit encoding has a 4-byte length behind two reserved bytes (PS3.5 7.1.2).
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT_HEADER = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<I")
_GROUP_LENGTH = struct.Struct("<HH2sHI")


class FileHead(NamedTuple):
    """What a Part 10 file says of its dataset, and where (bytes from the start of the file) the dataset begins."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    source_ae: str = ""
    """(0002,0016), the AE title that sent it; empty if the file does not say."""


def file_head(sop_class: str, sop_instance: str, transfer_syntax: str, *, source_ae: str) -> bytes:
    """The bytes that make a dataset a Part 10 file: zeroed preamble, `DICM`, File Meta (PS3.10 table 7.1-1).

    `sop_class`, `sop_instance`, `transfer_syntax` are UIDs as negotiated and commanded, taken as they are;
    `source_ae` is the calling AE title (0002,0016), left out when blank. Characters outside ASCII become `?`.
    """
    instance = uid_value(sop_instance)
    before, after = around_instance(sop_class, transfer_syntax, source_ae=source_ae, instance_length=len(instance))
    return b"%b%b%b" % (before, instance, after)


def uid_value(uid: str) -> bytes:
    """A UID as its element's value (PS3.5 9.1); what isn't ASCII becomes `?`."""
    raw = uid.encode("ascii", "replace")
    return raw + b"\0" if len(raw) % 2 else raw


def around_instance(
    sop_class: str, transfer_syntax: str, *, source_ae: str, instance_length: int
) -> tuple[bytes, bytes]:
    """What `file_head` puts before and behind the SOP Instance UID's value of so many bytes: the same for all objects
    of a presentation context whose UIDs are as long."""
    before = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01" + _element(0x0002, b"UI", sop_class, b"\0")
    before += _header(0x0003, b"UI", instance_length)
    after = (
        _element(0x0010, b"UI", transfer_syntax, b"\0")
        + _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0")
        + _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" ")
    )
    if source_ae:
        after += _element(0x0016, b"AE", source_ae, b" ")
    group_length = _GROUP_LENGTH.pack(2, 0, b"UL", 4, len(before) + instance_length + len(after))
    return _PREFIX + group_length + before, after


def _element(number: int, vr: bytes, value: str, pad: bytes) -> bytes:
    raw = value.encode("ascii", "replace")
    if len(raw) % 2:
        raw += pad
    return _header(number, vr, len(raw)) + raw


def _header(number: int, vr: bytes, length: int) -> bytes:
    if length > 0xFFFE:
        raise ValueError("a File Meta value is longer than its length field can say")
    return _SHORT_HEADER.pack(2, number, vr, length)


def read_file_head(prefix: bytes, *, file_length: int) -> FileHead:
    """Read preamble and File Meta of a file whose first bytes are `prefix` and whose size is `file_length` bytes.

    Elements are walked to the end of group 0002 (a wrong group length is common and harmless). ValueError, with a
    sentence for people, if it is no Part 10 file, lacks a UID that sending needs, or its File Meta exceeds `prefix`.
    """
    if len(prefix) < META_OFFSET or prefix[PREAMBLE_BYTES:META_OFFSET] != MAGIC:
        raise ValueError("not a DICOM Part 10 file: no DICM at byte 128")
    values: dict[int, str] = {}
    source_ae = ""
    at = META_OFFSET
    while at + 8 <= len(prefix):
        group, number, vr, length = _SHORT_HEADER.unpack_from(prefix, at)
        if group != 2:
            break
        value_at = at + 8
        if vr in _LONG_VRS:
            if at + 12 > len(prefix):
                raise ValueError("the File Meta Information is cut short")
            length = _LONG_LENGTH.unpack_from(prefix, value_at)[0]
            value_at += 4
        elif not (vr.isalpha() and vr.isupper()):
            raise ValueError("the File Meta Information is not in Explicit VR Little Endian (PS3.10 7.1)")
        if value_at + length > len(prefix):
            raise ValueError("the File Meta Information is cut short, or longer than what was read of the file")
        if vr == b"UI":
            values[number] = prefix[value_at : value_at + length].decode("ascii", "replace").strip("\0 ")
        elif vr == b"AE" and number == 0x0016:
            source_ae = prefix[value_at : value_at + length].decode("ascii", "replace").strip("\0 ")
        at = value_at + length
    else:
        if at > file_length or (at < file_length and len(prefix) < file_length):
            raise ValueError("the File Meta Information is cut short, or longer than what was read of the file")
    missing = [name for number, name in _NEEDED.items() if not values.get(number)]
    if missing:
        raise ValueError(f"the File Meta Information has no {', '.join(missing)}")
    return FileHead(values[0x0002], values[0x0003], values[0x0010], at, source_ae)


_NEEDED = {
    0x0002: "Media Storage SOP Class UID (0002,0002)",
    0x0003: "Media Storage SOP Instance UID (0002,0003)",
    0x0010: "Transfer Syntax UID (0002,0010)",
}

"""What of an A-ASSOCIATE-RQ or -AC is decoded: the items that decide something here, as many as can count.

Used by `upper` before pynetdicom's decoder. Items and sub-items of unknown type are to be ignored (PS3.8 9.3.1), the
implementation's class and name tell nothing (PS3.7 D.3.3.2), and roles and extended negotiation are neither proposed
nor answered. A decoder that refuses one of those would refuse a modality for its name, and many of them cost seconds.
"""

from __future__ import annotations

from typing import Final

from relaypacs.dicom.pdu import ASSOCIATE_FIXED_BYTES, HEADER, HEADER_BYTES, ITEM, MAX_CONTEXTS, items

_APPLICATION_CONTEXT, _CONTEXT_RQ, _CONTEXT_AC, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_MAXIMUM_LENGTH, _OPERATIONS_WINDOW, _USER_IDENTITY = 0x51, 0x53, 0x58
_MOST: Final = {_APPLICATION_CONTEXT: 1, _CONTEXT_RQ: MAX_CONTEXTS, _CONTEXT_AC: MAX_CONTEXTS, _USER_INFORMATION: 1}
_MOST_INSIDE: Final = {_MAXIMUM_LENGTH: 1, _OPERATIONS_WINDOW: 1, _USER_IDENTITY: 1}


def without_what_decides_nothing(pdu: bytes) -> bytes:
    """The whole PDU (header included) with nothing else in it. PduError where an item is cut."""
    place = HEADER_BYTES + ASSOCIATE_FIXED_BYTES
    body = pdu[HEADER_BYTES:place] + _kept(pdu, place, len(pdu), _MOST)
    return HEADER.pack(pdu[0], len(body)) + body


def _kept(data: bytes, start: int, end: int, most: dict[int, int]) -> bytes:
    left = dict(most)
    kept = []
    for kind, first, last in items(data, start, end):
        if left.get(kind, 0):
            left[kind] -= 1
            value = data[first:last] if kind != _USER_INFORMATION else _kept(data, first, last, _MOST_INSIDE)
            kept.append(ITEM.pack(kind, len(value)) + value)
    return b"".join(kept)

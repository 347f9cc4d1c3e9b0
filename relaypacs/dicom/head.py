"""The few head elements that rules and rows need, out of the beginning of a dataset.

Intake calls `walk_head` for every object. A small walker (PS3.5 7) steps from element to element without looking into
values, sequences or pixel data, and stops behind the highest tag that is asked for; its cost is bounded by the prefix
it is given, however deep sequences nest. What it can't walk, pydicom is asked. It never raises: what could not be
read is said in `RoutingKeys.problem`, and the object goes by its association. Pure.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from struct import Struct
from struct import error as OutOfBytes  # noqa: N812
from typing import NamedTuple

from relaypacs.dicom.charset import decode_text
from relaypacs.dicom.tags import vr_of
from relaypacs.model import RoutingKeys

_CHARACTER_SET = 0x00080005
_KEYS: Mapping[str, int] = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_date": 0x00080020,
    "accession_number": 0x00080050,
    "modality": 0x00080060,
    "patient_id": 0x00100020,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
}
_LONGEST_KEY = 128
"""Characters kept of a value that goes into a row: twice what the standard allows."""
_LONGEST_VALUE = 1024
_INFLATED_BYTES = 256 * 1024
_PYDICOM_BYTES = 64 * 1024

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # PS3.5 7.5
_DELIMITERS = 0xFFFE
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())  # PS3.5 7.1.2
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_WRITTEN = _SHORT | _LONG
_NUMBERS = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "SV": "q", "UV": "Q"}
_BULK = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ"})

_ENDS = "the dataset's head ends in the middle of an element"
_UNREADABLE = "the dataset's head isn't encoded as its transfer syntax says"
_ANONYMOUS = "the dataset's head has no SOP Instance UID"
_NOT_DEFLATED = "the dataset is not a deflate stream"


class _Form(NamedTuple):
    """How elements are encoded (PS3.5 7.1)."""

    explicit: bool
    order: str
    vr_header: Struct
    header: Struct
    length: Struct


def _form(explicit: bool, order: str) -> _Form:
    return _Form(explicit, order, Struct(order + "HH2sH"), Struct(order + "HHL"), Struct(order + "L"))


_EXPLICIT, _IMPLICIT, _BIG_ENDIAN = _form(True, "<"), _form(False, "<"), _form(True, ">")
_FORMS = {
    "1.2.840.10008.1.2": _IMPLICIT,  # PS3.5 A.1
    "1.2.840.113619.5.2": _IMPLICIT,  # GE's private one
    "1.2.840.10008.1.2.2": _BIG_ENDIAN,  # PS3.5 A.3 (2006)
}
# PS3.5 A.5 and its JPIP and HTJ2K relatives: the whole dataset is one raw deflate stream.
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_Found = dict[int, tuple[bytes, str]]


class _NoSequence(Exception):
    """Where an item must stand there is something else."""


def walk_head(prefix: bytes | memoryview, transfer_syntax: str, wanted: frozenset[str]) -> RoutingKeys:
    """Read the routing keys and the `wanted` tags (`GGGGEEEE`) from the beginning of a dataset.

    `prefix` is the dataset's first bytes, or all of it; nothing behind it is looked at. Values come without padding
    and control characters, bounded in length, several of them joined by backslashes; numbers as decimals. Of
    duplicate elements the first counts. An unknown transfer syntax is taken as Explicit VR Little Endian (PS3.5 A.4).
    """
    elements = {int(tag, 16): tag for tag in wanted}
    tags = frozenset((_CHARACTER_SET, *_KEYS.values(), *elements))
    found: _Found = {}
    form = _FORMS.get(transfer_syntax, _EXPLICIT)
    problem = ""
    if transfer_syntax in _DEFLATED:
        prefix = _inflate(prefix)
        problem = "" if prefix else _NOT_DEFLATED
    if not form.explicit and bytes(prefix[4:6]) in _WRITTEN:
        form = _EXPLICIT  # a length of these bytes would be 16 KiB and more, which no first element has
    try:
        problem = problem or _walk(prefix, form, tags, found)
    except OutOfBytes:
        problem = _ENDS
    except _NoSequence:
        problem = _UNREADABLE
    if problem != _NOT_DEFLATED and (problem == _UNREADABLE or not _is_identified(found)):
        problem = "" if _ask_pydicom(prefix, form, tags, found) else problem or _ANONYMOUS
    character_set = found.get(_CHARACTER_SET, (b"", ""))[0]

    def value(tag: int, longest: int) -> str:
        raw, vr = found.get(tag, (b"", ""))
        return _text(raw, vr, tag, form.order, character_set)[:longest] if raw else ""

    return RoutingKeys(
        **{name: value(tag, _LONGEST_KEY) for name, tag in _KEYS.items()},
        elements={name: value(tag, _LONGEST_VALUE) for tag, name in elements.items() if tag in found},
        complete=not problem,
        problem=problem,
    )


def _walk(data: bytes | memoryview, form: _Form, tags: frozenset[int], found: _Found) -> str:
    """Collect `tags` into `found`; the problem, or "" when nothing that was asked for can follow."""
    last, at, end = max(tags), 0, len(data)
    while at < end:
        tag, vr, start, length = _element(data, at, form)
        if tag > last and tag >> 16 != _DELIMITERS:
            return ""
        at = _after_sequence(data, start, vr, form) if length == _UNDEFINED else start + length
        if tag in tags and tag not in found and length != _UNDEFINED:
            if at > end:
                return _ENDS
            found[tag] = (bytes(data[start : min(at, start + 4 * _LONGEST_VALUE)]), vr)
            if tag == last:
                return ""
    return "" if at == end else _ENDS


def _element(data: bytes | memoryview, at: int, form: _Form) -> tuple[int, str, int, int]:
    """Tag, VR ("" where it isn't written), start of the value and its length in bytes."""
    if form.explicit:
        group, element, vr, length = form.vr_header.unpack_from(data, at)
        tag = group << 16 | element
        if vr in _SHORT:
            return tag, vr.decode(), at + 8, length
        if vr in _LONG or (length == 0 and vr.isalpha() and vr.isupper()):  # PS3.5 6.2: new VRs are long
            return tag, vr.decode(), at + 12, form.length.unpack_from(data, at + 8)[0]
        # No VR: a delimiter, or one of the writers that switch to implicit inside of sequences.
    group, element, length = form.header.unpack_from(data, at)
    return group << 16 | element, "", at + 8, length


def _after_sequence(data: bytes | memoryview, at: int, vr: str, form: _Form) -> int:
    """The first byte behind a value of undefined length: items with or without a length, or fragments."""
    # Sequences stand at even places, their items at odd ones. PS3.5 6.2.2: inside of UN all is implicit.
    nesting = [_IMPLICIT if vr == "UN" else form]
    while nesting:
        form = nesting[-1]
        if len(nesting) % 2:
            group, element, length = form.header.unpack_from(data, at)
            at += 8
            tag = group << 16 | element
            if tag == _ITEM and length == _UNDEFINED:
                nesting.append(form)
            elif tag == _ITEM:
                at += length
            elif tag == _SEQUENCE_END:
                nesting.pop()
            else:
                raise _NoSequence
            continue
        tag, vr, at, length = _element(data, at, form)
        if tag == _ITEM_END:
            nesting.pop()
        elif tag == _SEQUENCE_END:  # its item's own end is missing
            del nesting[-2:]
        elif length == _UNDEFINED:
            nesting.append(_IMPLICIT if vr == "UN" else form)
        else:
            at += length
    return at


def _ask_pydicom(prefix: bytes | memoryview, form: _Form, tags: frozenset[int], found: _Found) -> bool:
    """Let pydicom try what the walker couldn't; whether it found what identifies an instance."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import BaseTag

    last = max(tags)

    def beyond(tag: BaseTag, vr: str | None, length: int) -> bool:
        return int(tag) > last

    try:
        dataset = read_dataset(
            io.BytesIO(bytes(prefix[:_PYDICOM_BYTES])),
            not form.explicit,
            form.order == "<",
            stop_when=beyond,
            specific_tags=list(tags),
        )
        for tag in tags & dataset.keys():
            element = dataset.get_item(tag)
            raw = getattr(element, "value", None)
            if isinstance(raw, bytes) and len(raw) == getattr(element, "length", 0):  # the last may be cut
                found.setdefault(tag, (raw[: 4 * _LONGEST_VALUE], getattr(element, "VR", None) or ""))
    except Exception:  # whatever a hostile dataset makes it raise, RecursionError included
        return False
    return _is_identified(found)


def _is_identified(found: _Found) -> bool:
    return found.get(_KEYS["sop_instance_uid"], (b"", ""))[0] != b""


def _inflate(prefix: bytes | memoryview) -> bytes:
    """The beginning of a raw deflate stream, or of a zlib one as some write it; b"" if it is neither."""
    for window in (-zlib.MAX_WBITS, zlib.MAX_WBITS):
        try:
            return zlib.decompressobj(window).decompress(prefix, _INFLATED_BYTES)
        except zlib.error:
            continue
    return b""


def _text(raw: bytes, vr: str, tag: int, order: str, character_set: bytes) -> str:
    vr = vr if vr not in {"", "UN"} else vr_of(tag)
    if vr in _NUMBERS:
        number = Struct(order + _NUMBERS[vr])
        whole = raw[: len(raw) - len(raw) % number.size]
        return "\\".join(str(value[0]) for value in number.iter_unpack(whole))
    if vr == "AT":
        pair = Struct(order + "HH")
        whole = raw[: len(raw) - len(raw) % pair.size]
        return "\\".join(f"{group:04X}{element:04X}" for group, element in pair.iter_unpack(whole))
    if vr in _BULK:
        return ""
    text = raw.decode() if raw.isascii() and b"\x1b" not in raw else decode_text(raw, character_set)
    text = text.strip(" \0")
    return text if text.isprintable() else "".join(filter(str.isprintable, text)).strip()

"""Data element tags as administrators write them (keyword or number) and as we keep them (`GGGGEEEE`). Pure."""

from __future__ import annotations

import difflib
import functools
import re

_NUMBER = re.compile(r"\(?([0-9A-Fa-f]{4}),? ?([0-9A-Fa-f]{4})\)?")
_KEYWORD = re.compile(r"[A-Z][A-Za-z0-9]{1,63}")
_FIRST, _PIXEL_DATA = 0x00080000, 0x7FE00000  # PS3.5 7.1: groups below 0008 are never in a dataset (PS3.10 7.1, PS3.7)


def tag_of(text: str) -> str:
    """The tag that `text` names, as eight upper-case hexadecimal digits.

    `text` is a keyword of PS3.6 (`StationName`) or a number (`0008,1010`, also without the comma or in parentheses).
    ValueError, with the closest keyword, if it names none, or one that has no value in the head of a dataset.
    """
    number = _NUMBER.fullmatch(text)
    tag = int(number[1] + number[2], 16) if number else _by_keyword(text)
    if not _FIRST <= tag < _PIXEL_DATA:
        raise ValueError(f"{text} is not in the head of a dataset (0008,0000 to 7FDF,FFFF)")
    return f"{tag:08X}"


@functools.lru_cache(maxsize=512)
def vr_of(tag: int) -> str:
    """The VR that PS3.6 gives to a tag, the first of several; "" for a private or unknown one."""
    from pydicom.datadict import dictionary_VR  # late: see dicom.uid

    try:
        return dictionary_VR(tag)[:2]
    except KeyError:
        return ""


def _by_keyword(text: str) -> int:
    from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword  # late: see dicom.uid

    tag = tag_for_keyword(text) if _KEYWORD.fullmatch(text) else None
    if tag is None:
        close = difflib.get_close_matches(text, filter(None, keyword_dict), n=1)
        mend = f"; did you mean {close[0]}?" if close else "; write a keyword such as StationName, or 0008,1010"
        raise ValueError(f"{text[:64]!r} is no DICOM keyword or tag{mend}")
    if dictionary_VR(tag) == "SQ":
        raise ValueError(f"{text} is a sequence and has no value to compare")
    return tag

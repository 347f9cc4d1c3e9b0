"""UIDs (PS3.5 9.1): what is one, and what the standard calls those it registers (PS3.6 A). Pure."""

from __future__ import annotations

import functools
import re

LONGEST_UID = 64
_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")


def is_uid(text: str) -> bool:
    """Whether `text` is a legal UID: at most 64 characters, numbers without leading zeros joined by dots."""
    return len(text) <= LONGEST_UID and _UID.fullmatch(text) is not None


def check_uid(text: str) -> str:
    """Return `text`, or ValueError with a sentence if it is no UID."""
    if not is_uid(text):
        raise ValueError("a UID is at most 64 characters: numbers without leading zeros, joined by dots")
    return text


@functools.lru_cache(maxsize=512)
def uid_names(uid: str) -> tuple[str, ...]:
    """The name and the keyword PS3.6 A gives to `uid` (`CT Image Storage`, `CTImageStorage`); () if it gives none."""
    if not is_uid(uid):
        return ()
    from pydicom.uid import UID  # late: loading pydicom takes 0.1 s, and few processes need names

    known = UID(uid)
    return (known.name, known.keyword) if known.keyword else ()

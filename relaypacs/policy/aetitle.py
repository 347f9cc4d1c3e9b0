"""AE titles (PS3.5 6.2, VR AE): what is one, and when two are the same."""

from __future__ import annotations


def clean_ae_title(raw: bytes | str) -> str:
    """The significant part of an AE title: without leading and trailing spaces and the NULs some peers pad with."""
    text = raw.decode("ascii", "replace") if isinstance(raw, bytes) else raw
    return text.strip(" \0")


def check_ae_title(value: str) -> str:
    """Return `value` cleaned; ValueError if it is no AE title: 1-16 characters, ASCII, no backslash, no control."""
    title = clean_ae_title(value)
    if not 1 <= len(title) <= 16:
        raise ValueError(f"an AE title has 1 to 16 characters, not {len(title)}")
    if not title.isascii() or not title.isprintable() or "\\" in title:
        raise ValueError("an AE title has no backslash, control or non-ASCII character")
    return title


def is_ae_title(value: str) -> bool:
    """Whether `check_ae_title` takes it."""
    try:
        check_ae_title(value)
    except ValueError:
        return False
    return True


def same_ae_title(one: str, other: str, *, case_sensitive: bool) -> bool:
    """Whether two cleaned AE titles name the same application entity. A blank one never does (PS3.8 9.3.2)."""
    if not one or not other:
        return False
    return one == other if case_sensitive else one.casefold() == other.casefold()

"""Text by Specific Character Set (PS3.3 C.12.1.1.2), for the few values that are not ASCII. Pure; never raises."""

from __future__ import annotations

import contextlib

_DELIMITERS = set(b"\\^=\r\n\t\f")  # PS3.5 6.1.2.5.3: these end a code extension


def decode_text(raw: bytes, character_set: bytes) -> str:
    """Decode `raw` by the value of (0008,0005); without a usable one as UTF-8, or else Latin-1."""
    terms = character_set.decode("ascii", "replace").strip(" \0").split("\\")
    if terms != [""]:
        from pydicom.charset import convert_encodings, decode_bytes, python_encoding  # late: see dicom.uid

        # Whatever else makes pydicom raise: the guess below is as good.
        with contextlib.suppress(Exception):
            if all(term.strip() in python_encoding for term in terms):
                return decode_bytes(raw, convert_encodings(terms), _DELIMITERS)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")

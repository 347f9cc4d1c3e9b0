"""Keys of staged objects: `YYYY/MM/DD/study-<opaque>/<opaque>-<digest>.dcm`, the same in every adapter.

Opaque is a keyed hash of the UID: whoever lists the storage learns dates and how much there is, no UID and no name.
Nothing that a peer sent stands in a key as it came, so a key is always safe as a path and as a URL. Pure.
"""

from __future__ import annotations

import datetime
import hmac
import re

from relaypacs.errors import StagingError

_OPAQUE_BYTES = 16
_DIGEST_DIGITS = 16
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DATE = re.compile(r"[0-9]{8}")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,7}")
_OURS = re.compile(r"[0-9]{4}/[0-9]{2}/[0-9]{2}/study-[0-9a-f]+/[0-9a-f]+-[0-9a-f]+\.dcm")
NO_DATE = "0000/00/00"


def staged_key(hash_key: bytes, *, study_uid: str, sop_instance_uid: str, digest: str, date: str) -> str:
    """The key of an instance. `date` is YYYYMMDD (PS3.5 VR DA); anything else gives `0000/00/00`.

    `hash_key` is the node's secret: with another one every key is another. `digest` is the SHA-256 in lower-case
    hexadecimal that intake computed; ValueError for anything else. The UIDs may be empty or hostile.
    """
    if not _DIGEST.fullmatch(digest):
        raise ValueError("a digest is 64 lower-case hexadecimal digits")
    study = _opaque(hash_key, b"study", study_uid)
    instance = _opaque(hash_key, b"instance", sop_instance_uid)
    return f"{_folders(date)}/study-{study}/{instance}-{digest[:_DIGEST_DIGITS]}.dcm"


def check_key(key: str) -> str:
    """Return `key` if it has the form of a key; StagingError if it could name anything outside the storage."""
    if not _KEY.fullmatch(key):
        raise StagingError("not a staging key: slash-separated names of letters, digits, `_`, `-` and `.` are")
    return key


def is_staged_key(key: str) -> bool:
    """Whether `key` looks as `staged_key` makes them, whatever the secret was."""
    return _OURS.fullmatch(key) is not None


def _opaque(hash_key: bytes, kind: bytes, uid: str) -> str:
    message = kind + b"\0" + uid.encode("utf-8", "surrogatepass")
    return hmac.digest(hash_key, message, "sha256")[:_OPAQUE_BYTES].hex()


def _folders(date: str) -> str:
    if not _DATE.fullmatch(date):
        return NO_DATE
    try:
        datetime.date(int(date[:4]), int(date[4:6]), int(date[6:]))
    except ValueError:
        return NO_DATE
    return f"{date[:4]}/{date[4:6]}/{date[6:]}"

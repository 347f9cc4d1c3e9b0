"""UIDs as sentences say them: the dictionary's name, or the UID itself where it has none."""

from __future__ import annotations

from relaypacs.dicom.uid import is_uid, uid_names


def spoken(uid: str) -> str:
    """`CT Image Storage` for its UID; an unregistered UID as it is; nothing that a peer made up."""
    names = uid_names(uid)
    return names[0] if names else uid if is_uid(uid) else "an invalid UID"

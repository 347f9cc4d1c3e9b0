"""What a STOW-RS answer says of each instance: the DICOM JSON body, read defensively (PS3.18 10.5.3, F.2, I.2.2).

And which instances a QIDO-RS answer names (10.6.3). Pure. A body that is no such answer is None: what it says can't be
known, so it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from relaypacs.forward.stow_xml import read_native

_FAILED, _REFERENCED, _OTHER_FAILURES = "00081198", "00081199", "0008119A"
_SOP_INSTANCE, _FAILURE_REASON, _WARNING_REASON = "00081155", "00081197", "00081196"


@dataclass(frozen=True, slots=True)
class Listing:
    """Which SOP Instance UIDs an answer names."""

    stored: dict[str, int] = field(default_factory=dict)
    """Referenced SOP Sequence: UID to Warning Reason, or 0."""
    failed: dict[str, int | None] = field(default_factory=dict)
    """Failed SOP Sequence: UID to Failure Reason, or None where it gives none."""
    other_failures: int = 0
    """Other Failures Sequence: how many parts failed that the destination can't name."""


def limit_bytes(instances: int) -> int:
    """The longest answer that is read, in bytes: several times what is sane for so many instances."""
    return (256 << 10) + instances * (8 << 10)


def clean_uid(uid: str) -> str:
    """A UID as it is compared: without padding (PS3.5 9.1 pads with NUL, some peers with spaces)."""
    return uid.strip(" \0")


def read_listing(body: bytes) -> Listing | None:
    """The listing in a `application/dicom+json` or `application/dicom+xml` body, or None if it is no such thing.

    A UID named as stored and as failed counts as failed.
    """
    try:
        found = read_native(body) if body.lstrip()[:1] == b"<" else json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        return None
    module = {tag.upper(): element for tag, element in found.items()}
    if not any(len(tag) == 8 and isinstance(element, dict) and "vr" in element for tag, element in module.items()):
        return None
    failed = {uid: _number(item, _FAILURE_REASON) for uid, item in _items(module.get(_FAILED))}
    stored = {uid: _number(item, _WARNING_REASON) or 0 for uid, item in _items(module.get(_REFERENCED))}
    for uid in failed:
        stored.pop(uid, None)
    others = module.get(_OTHER_FAILURES)
    values = others.get("Value") if isinstance(others, dict) else None
    return Listing(stored, failed, len(values) if isinstance(values, list) else 0)


def read_results(body: bytes) -> list[str] | None:
    """The SOP Instance UIDs of a search's results in DICOM JSON (PS3.18 10.6.3); None if the body is no list of
    instances."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return None
    named = [_first({tag.upper(): element for tag, element in one.items()}, "00080018") for one in found]
    uids = [clean_uid(uid) for uid in named if isinstance(uid, str)]
    return uids if len(uids) == len(named) else None


def _items(sequence: object) -> Iterator[tuple[str, dict[str, object]]]:
    values = sequence.get("Value") if isinstance(sequence, dict) else None
    for value in values if isinstance(values, list) else []:
        if isinstance(value, dict):
            item = {str(tag).upper(): element for tag, element in value.items()}
            uid = _first(item, _SOP_INSTANCE)
            if isinstance(uid, str):
                yield clean_uid(uid), item


def _first(item: dict[str, object], tag: str) -> object:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _number(item: dict[str, object], tag: str) -> int | None:
    """A US value: 0..65535. Some peers write numbers as text (PS3.18 F.2.3 allows it for other VRs)."""
    value = _first(item, tag)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:6])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0xFFFF else None

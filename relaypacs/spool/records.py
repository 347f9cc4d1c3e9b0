"""What a record says: an object's `ObjectMeta` or an event, to and from a header's fields. Pure.

Called by the writer (`begin_object`, `begin_event`) and by `recover` (`to_record`). Text of a peer is kept exactly,
escaped as JSON; entry names hold nothing but the record's number and our own association id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _text

from relaypacs.dicom.part10 import around_instance, uid_value
from relaypacs.errors import SpoolError
from relaypacs.model import Committed, EventRecord, ObjectMeta, ObjectRecord, Record
from relaypacs.spool.format import HEADER_BYTES, Begun, Header, begin_header, entry_name

MAX_EVENT_BYTES = 1 << 20
"""Largest event, in bytes of JSON."""


def begin_object(meta: ObjectMeta) -> Begun:
    """The header of a received object; its payload is the dataset. SpoolError where `meta` doesn't fit."""
    _, _, _, _, time, sop_class, uid, syntax = meta
    instance = uid_value(uid)
    entry, before, between, behind, head, head_end = _around(meta[:4], sop_class, syntax, len(instance))
    members = f"{before}{float(time)!r}{between}{_text(uid)}{behind}"
    return begin_header(entry, time, members, b"%b%b%b" % (head, instance, head_end))


def begin_event(kind: str, time: float) -> Begun:
    """The header of an event; its payload is `event_payload`. `time` is in seconds since the epoch."""
    return begin_header(entry_name(kind, "json"), time, f'"event":{_text(kind)}', b"")


@lru_cache(512)
def _around(
    association: tuple[str, str, str, str], sop_class: str, transfer_syntax: str, instance_length: int
) -> tuple[bytes, str, str, str, bytes, bytes]:
    """What all objects of a presentation context share. `association`: its id, calling and called AE, peer.

    The entry's name; the members before the time, between it and the SOP Instance UID, and behind that; the file's
    head before and behind it.
    """
    association_id, calling_ae, called_ae, peer = association
    try:
        head, head_end = around_instance(
            sop_class, transfer_syntax, source_ae=calling_ae, instance_length=instance_length
        )
    except ValueError as problem:
        raise SpoolError(str(problem)) from problem
    return (
        entry_name(association_id, "dcm"),
        f'"association":{_text(association_id)},"calling":{_text(calling_ae)},'
        f'"called":{_text(called_ae)},"peer":{_text(peer)},"received":',
        f',"class":{_text(sop_class)},"instance":',
        f',"syntax":{_text(transfer_syntax)}',
        head,
        head_end,
    )


def event_payload(kind: str, time: float, body: Mapping[str, object]) -> bytes:
    """An event as the JSON text its entry holds. SpoolError over `MAX_EVENT_BYTES`; TypeError if `body` is no JSON."""
    text = json.dumps({"kind": kind, "time": time, "body": dict(body)}, separators=(",", ":")).encode("ascii") + b"\n"
    if len(text) > MAX_EVENT_BYTES:
        raise SpoolError(f"an event of {len(text)} bytes is over the spool's limit of {MAX_EVENT_BYTES}")
    return text


def is_event(header: Header) -> bool:
    """Whether the record is an event, not an object."""
    return "event" in header.fields


def to_record(header: Header, offset: int, payload: bytes) -> Record:
    """The record at `offset` (bytes from the segment's start). `payload` is an event's text, not used for objects.

    KeyError, TypeError or ValueError if the header's fields are not those of format v1.
    """
    at = Committed(header.generation, header.number, offset, offset + header.length)
    if is_event(header):
        said = json.loads(payload)
        return EventRecord(at, said["kind"], said["time"], said["body"])
    said = header.fields
    meta = ObjectMeta(
        association_id=said["association"],
        calling_ae=said["calling"],
        called_ae=said["called"],
        peer=said["peer"],
        received_at=said["received"],
        sop_class_uid=said["class"],
        sop_instance_uid=said["instance"],
        transfer_syntax_uid=said["syntax"],
    )
    file_offset = offset + HEADER_BYTES
    return ObjectRecord(
        at=at,
        meta=meta,
        file_offset=file_offset,
        file_length=header.file_length,
        dataset_offset=file_offset + header.head_length,
        dataset_length=header.payload_length,
        dataset_crc32c=header.payload_crc32c,
    )

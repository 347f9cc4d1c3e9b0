"""DIMSE command sets (PS3.7 section 6.3.1 and annex E): always Implicit VR Little Endian, group 0000 only.

Used by the lanes on both sides for C-STORE and for answers that need no service class. Pure; pydicom is not asked,
so a command set costs microseconds. `CommandError` means the peer's command set can't be understood.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

# Command Field values, PS3.7 E.1-1
C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_FIND_RQ, C_FIND_RSP = 0x0020, 0x8020
C_ECHO_RQ, C_ECHO_RSP = 0x0030, 0x8030
C_CANCEL_RQ = 0x0FFF
RESPONSE = 0x8000
NO_DATASET = 0x0101  # Command Data Set Type, PS3.7 9.3.1.1 and others

# Statuses, PS3.7 annex C and PS3.4 B.2.3
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
INVALID_SOP_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

MAX_UID_LENGTH = 64  # PS3.5 9.1
MAX_COMMENT_LENGTH = 64  # Error Comment is LO, PS3.7 C
_UID = re.compile(r"[0-9]+(?:\.[0-9]+)*\Z", re.ASCII)
_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<HHIH")

_AFFECTED_SOP_CLASS, _REQUESTED_SOP_CLASS = 0x0002, 0x0003
_FIELD, _MESSAGE_ID, _RESPONDED_TO, _DATASET_TYPE = 0x0100, 0x0110, 0x0120, 0x0800
_STATUS, _COMMENT, _AFFECTED_SOP_INSTANCE = 0x0900, 0x0902, 0x1000


class CommandError(ValueError):
    """A command set that can't be read; the message is a sentence without the peer's data."""


@dataclass(frozen=True, slots=True)
class CommandSet:
    """The elements of a command set that the lanes decide by. None: the element was absent.

    UIDs are the peer's text without padding and may be invalid; see `is_valid_uid`.
    """

    field: int
    message_id: int | None = None
    responded_to: int | None = None
    has_dataset: bool = False
    status: int | None = None
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    error_comment: str = ""


def is_valid_uid(uid: str) -> bool:
    """Whether this is a UID of PS3.5 9.1: at most 64 characters, digits in components. Leading zeros pass: they are
    sent by real modalities and harm nobody."""
    return len(uid) <= MAX_UID_LENGTH and _UID.match(uid) is not None


def decode_command(data: bytes) -> CommandSet:
    """Read an encoded command set.

    Raises `CommandError` where the elements do not fill `data` exactly, one has a wrong length, one is not of group
    0000, or Command Field is missing. Elements that no lane needs are skipped.
    """
    position, end = 0, len(data)
    field = message_id = responded_to = dataset_type = status = None
    sop_class = requested_class = sop_instance = comment = ""
    while position < end:
        if end - position < 8:
            raise CommandError("the command set is cut in an element's header")
        group, element, length = _ELEMENT.unpack_from(data, position)
        start = position + 8
        position = start + length
        if group != 0 or position > end:
            raise CommandError("the command set holds an element that is not one of its own or reaches past its end")
        if element in (_FIELD, _MESSAGE_ID, _RESPONDED_TO, _DATASET_TYPE, _STATUS):
            if length != 2:
                raise CommandError("a number of the command set has not two bytes")
            value = data[start] | data[start + 1] << 8
            if element == _FIELD:
                field = value
            elif element == _MESSAGE_ID:
                message_id = value
            elif element == _RESPONDED_TO:
                responded_to = value
            elif element == _DATASET_TYPE:
                dataset_type = value
            else:
                status = value
        elif element == _AFFECTED_SOP_CLASS:
            sop_class = _text(data, start, position)
        elif element == _REQUESTED_SOP_CLASS:
            requested_class = _text(data, start, position)
        elif element == _AFFECTED_SOP_INSTANCE:
            sop_instance = _text(data, start, position)
        elif element == _COMMENT:
            comment = _text(data, start, position)
    if field is None:
        raise CommandError("the command set has no Command Field")
    if dataset_type is None:
        raise CommandError("the command set has no Command Data Set Type")
    return CommandSet(
        field,
        message_id,
        responded_to,
        dataset_type != NO_DATASET,
        status,
        sop_class or requested_class,
        sop_instance,
        comment,
    )


def encode_store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, *, priority: int = 0) -> bytes:
    """A C-STORE-RQ with a dataset (PS3.7 9.3.1.1). `message_id` 0-65535; `priority` 0 medium, 1 high, 2 low."""
    return _with_group_length(
        _uid_element(_AFFECTED_SOP_CLASS, sop_class_uid)
        + _US.pack(0, _FIELD, 2, C_STORE_RQ)
        + _US.pack(0, _MESSAGE_ID, 2, message_id)
        + _US.pack(0, 0x0700, 2, priority)
        + _US.pack(0, _DATASET_TYPE, 2, 0x0001)
        + _uid_element(_AFFECTED_SOP_INSTANCE, sop_instance_uid)
    )


def encode_echo_request(message_id: int) -> bytes:
    """A C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return _with_group_length(
        _uid_element(_AFFECTED_SOP_CLASS, "1.2.840.10008.1.1")
        + _US.pack(0, _FIELD, 2, C_ECHO_RQ)
        + _US.pack(0, _MESSAGE_ID, 2, message_id)
        + _US.pack(0, _DATASET_TYPE, 2, NO_DATASET)
    )


def encode_find_request(message_id: int, sop_class_uid: str) -> bytes:
    """A C-FIND-RQ with an identifier (PS3.7 9.3.2.1), of medium priority. `message_id` 0-65535."""
    return _with_group_length(
        _uid_element(_AFFECTED_SOP_CLASS, sop_class_uid)
        + _US.pack(0, _FIELD, 2, C_FIND_RQ)
        + _US.pack(0, _MESSAGE_ID, 2, message_id)
        + _US.pack(0, 0x0700, 2, 0)
        + _US.pack(0, _DATASET_TYPE, 2, 0x0001)
    )


def encode_response(request: CommandSet, status: int, comment: str = "") -> bytes:
    """The response without a dataset to any request, such as a C-STORE-RSP (PS3.7 9.3.1.2).

    The request's UIDs are repeated where they are valid UIDs (PS3.7 makes them optional), so that nothing a peer made
    up comes back. `comment` is cut to 64 characters (Error Comment). The request must have a message id.
    """
    elements = b""
    if is_valid_uid(request.sop_class_uid):
        elements = _uid_element(_AFFECTED_SOP_CLASS, request.sop_class_uid)
    elements += (
        _US.pack(0, _FIELD, 2, request.field | RESPONSE)
        + _US.pack(0, _RESPONDED_TO, 2, request.message_id or 0)
        + _US.pack(0, _DATASET_TYPE, 2, NO_DATASET)
        + _US.pack(0, _STATUS, 2, status)
    )
    if comment:
        text = comment[:MAX_COMMENT_LENGTH].encode("ascii", "replace")
        elements += _element(_COMMENT, text + b" " * (len(text) & 1))
    if is_valid_uid(request.sop_instance_uid):
        elements += _uid_element(_AFFECTED_SOP_INSTANCE, request.sop_instance_uid)
    return _with_group_length(elements)


def _text(data: bytes, start: int, end: int) -> str:
    return data[start:end].decode("ascii", "replace").strip(" \0")


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _uid_element(element: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    return _element(element, value + b"\0" * (len(value) & 1))


def _with_group_length(elements: bytes) -> bytes:
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements

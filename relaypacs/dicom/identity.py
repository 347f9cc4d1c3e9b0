"""User identity negotiation (PS3.7 D.3.3.7): what a requestor shows of itself in its A-ASSOCIATE-RQ. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from relaypacs.dicom.pdu import ASSOCIATE_FIXED_BYTES, AbortReason, AssociateHead, PduError, items

_USER_INFORMATION, _USER_IDENTITY = 0x50, 0x58
_LENGTH = struct.Struct(">H")


class IdentityType(IntEnum):
    """PS3.7 table D.3-14."""

    USERNAME = 1
    USERNAME_AND_PASSCODE = 2
    KERBEROS = 3
    SAML = 4
    JWT = 5


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """What was shown; no part of it belongs in a log."""

    kind: int
    """An `IdentityType`, or any other number that a peer wrote."""
    wants_response: bool
    primary: bytes = field(repr=False)
    """The username, the ticket, the assertion or the token."""
    secondary: bytes = field(repr=False)
    """The passcode."""


def read_user_identity(head: AssociateHead) -> UserIdentity | None:
    """The user identity of a request; None if it shows none. Raises `PduError` where it is broken or there are two."""
    found: UserIdentity | None = None
    data = head.rest
    for kind, start, end in items(data, ASSOCIATE_FIXED_BYTES, len(data)):
        if kind != _USER_INFORMATION:
            continue
        for sub_kind, first, last in items(data, start, end):
            if sub_kind == _USER_IDENTITY:
                if found is not None:
                    raise PduError(AbortReason.INVALID_PARAMETER, "more than one user identity is shown")
                found = _read(data[first:last])
    return found


def _read(value: bytes) -> UserIdentity:
    """PS3.7 table D.3-14: type, response requested, and two fields with their lengths."""
    if len(value) >= 6:
        primary_end = 4 + int(_LENGTH.unpack_from(value, 2)[0])
        if len(value) >= primary_end + 2:
            secondary_end = primary_end + 2 + int(_LENGTH.unpack_from(value, primary_end)[0])
            if len(value) == secondary_end:
                return UserIdentity(value[0], value[1] != 0, value[4:primary_end], value[primary_end + 2 :])
    raise PduError(AbortReason.INVALID_PARAMETER, "the lengths of a user identity do not fit")

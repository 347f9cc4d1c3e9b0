"""User identities of association requests, whole and broken."""

from __future__ import annotations

import struct

import pytest

from relaypacs.dicom.identity import UserIdentity, read_user_identity
from relaypacs.dicom.pdu import HEADER_BYTES, AssociateHead, PduError, read_associate_head
from tests.peers.raw import associate_rq, item


def identity(kind: int, primary: bytes = b"", secondary: bytes = b"", response: int = 0) -> bytes:
    """A user identity sub-item (PS3.7 table D.3-14)."""
    fields = struct.pack(">H", len(primary)) + primary + struct.pack(">H", len(secondary)) + secondary
    return item(0x58, bytes((kind, response)) + fields)


def head(more: bytes) -> AssociateHead:
    return read_associate_head(associate_rq(more=more)[HEADER_BYTES:])


def test_none_is_shown() -> None:
    assert read_user_identity(head(b"")) is None


@pytest.mark.parametrize(
    "expected",
    [
        UserIdentity(1, False, b"ct", b""),
        UserIdentity(2, True, b"ct", b"secret"),
        UserIdentity(5, False, b"x" * 60_000, b""),
        UserIdentity(99, True, b"", b""),
        UserIdentity(2, False, b"\xff\0", b"\n"),
    ],
)
def test_what_is_shown(expected: UserIdentity) -> None:
    sent = identity(expected.kind, expected.primary, expected.secondary, int(expected.wants_response))
    assert read_user_identity(head(item(0x59, b"\0\0") + sent)) == expected


def test_no_secret_in_its_repr() -> None:
    shown = repr(UserIdentity(2, True, b"someone", b"secret"))
    assert "someone" not in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    "broken",
    [
        identity(1, b"a") + identity(1, b"a"),
        item(0x58, b""),
        item(0x58, b"\1\0\0\0\0"),
        item(0x58, b"\1\0\0\5ct\0\0"),
        item(0x58, b"\2\0\0\2ct\0\5secret"),
        item(0x58, b"\2\0\0\2ct\0\7secret"),
        item(0x58, b"\2\0\xff\xffct"),
    ],
)
def test_a_broken_one_is_the_peers_fault(broken: bytes) -> None:
    with pytest.raises(PduError):
        read_user_identity(head(broken))

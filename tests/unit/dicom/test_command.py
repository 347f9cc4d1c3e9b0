"""Command sets: pydicom and pynetdicom read what we write, we read what they write, and lies are errors."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom import dimse_messages
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode

from relaypacs.dicom.command import (
    CommandError,
    CommandSet,
    decode_command,
    encode_echo_request,
    encode_response,
    encode_store_request,
    is_valid_uid,
)
from tests.peers.raw import CT, element, store_rq

UIDS = st.from_regex(r"1(\.[1-9][0-9]{0,5}){1,6}", fullmatch=True)


def by_pydicom(data: bytes) -> Dataset:
    return decode(BytesIO(data), True, True)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 65535), UIDS, UIDS, st.integers(0, 2))
def test_store_request_is_read_by_pydicom_and_by_us(
    message_id: int, sop_class: str, instance: str, priority: int
) -> None:
    data = encode_store_request(message_id, sop_class, instance, priority=priority)
    command = by_pydicom(data)
    assert command.CommandGroupLength == len(data) - 12
    assert (command.CommandField, command.MessageID, command.Priority) == (1, message_id, priority)
    assert (command.AffectedSOPClassUID, command.AffectedSOPInstanceUID) == (sop_class, instance)
    assert command.CommandDataSetType != 0x0101
    assert decode_command(data) == CommandSet(1, message_id, None, True, None, sop_class, instance, "")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 65535), UIDS, UIDS)
def test_stock_request_is_read_by_us(message_id: int, sop_class: str, instance: str) -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = message_id, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = sop_class, instance  # type: ignore[assignment]
    primitive.MoveOriginatorApplicationEntityTitle = "SOMEONE"
    primitive.DataSet = BytesIO(b"data")
    message = dimse_messages.C_STORE_RQ()
    message.primitive_to_message(primitive)
    data = encode(message.command_set, True, True)
    assert data is not None
    assert decode_command(data) == CommandSet(1, message_id, None, True, None, sop_class, instance, "")


def test_response() -> None:
    request = decode_command(store_rq(message_id=513, sop_instance="1.2.3"))
    data = encode_response(request, 0xA700, "x" * 100)
    answer = by_pydicom(data)
    assert answer.CommandGroupLength == len(data) - 12
    assert (answer.CommandField, answer.MessageIDBeingRespondedTo, answer.Status) == (0x8001, 513, 0xA700)
    assert answer.CommandDataSetType == 0x0101
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (CT, "1.2.3")
    assert answer.ErrorComment == "x" * 64
    assert [one.tag for one in answer] == sorted(one.tag for one in answer)
    assert decode_command(data).error_comment == "x" * 64


def test_response_repeats_no_illegal_uid() -> None:
    request = CommandSet(1, 1, None, True, None, "1.2/3", "../../x")
    answer = by_pydicom(encode_response(request, 0x0117))
    assert "AffectedSOPClassUID" not in answer
    assert "AffectedSOPInstanceUID" not in answer


def test_echo_request() -> None:
    command = by_pydicom(encode_echo_request(9))
    assert (command.CommandField, command.MessageID, command.AffectedSOPClassUID) == (0x30, 9, "1.2.840.10008.1.1")
    assert not decode_command(encode_echo_request(9)).has_dataset


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\x01",
        element(0x0100, b"\x01\x00"),  # no data set type
        element(0x0800, b"\x01\x00"),  # no command field
        element(0x0100, b"\x01") + element(0x0800, b"\0\0"),
        element(0x0100, b"\x01\0\0\0") + element(0x0800, b"\0\0"),
        store_rq()[:-1],
        b"\x08\0\x05\0\x02\0\0\0\x01\x00" + store_rq(),
        b"\0\0\0\x01\xff\xff\xff\xff",
    ],
)
def test_what_is_no_command_set(data: bytes) -> None:
    with pytest.raises(CommandError):
        decode_command(data)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 100), st.integers(0, 255))
def test_nothing_but_command_errors(noise: bytes, place: int, value: int) -> None:
    mutated = bytearray(store_rq())
    mutated[place % len(mutated)] = value
    for data in (noise, bytes(mutated)):
        with suppress(CommandError):
            decode_command(data)


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "1.02", "0", "9" * 64])
def test_uids(uid: str) -> None:
    assert is_valid_uid(uid)


@pytest.mark.parametrize("uid", ["", ".", "1.", ".1", "1..2", "1.a", "9" * 65, "1.2\n", "../1", "1 2", "٣.٤"])
def test_no_uids(uid: str) -> None:
    assert not is_valid_uid(uid)

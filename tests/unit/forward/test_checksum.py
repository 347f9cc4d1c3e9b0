"""Wrong bytes never leave whole, whatever the sizes of dataset and fragments."""

from __future__ import annotations

import os

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.dicom.pdu import message_buffers
from relaypacs.forward.checksum import Corrupt, checked, intact

_MIB = 1 << 20
_BYTES = os.urandom(3 * _MIB)


@given(st.sampled_from([0, 1, 2, 100, _MIB - 1, _MIB, _MIB + 1, 2 * _MIB, 3 * _MIB]), st.sampled_from([0, 4096, 16384]))
@settings(max_examples=30, deadline=None)
def test_right_bytes_pass_unchanged(length: int, max_pdu_bytes: int) -> None:
    dataset = memoryview(_BYTES)[:length]
    crc32c = google_crc32c.value(bytes(dataset))
    assert intact(dataset, crc32c)
    plain = [one for one in message_buffers(1, b"command!", dataset, max_pdu_bytes) if len(one)]
    assert [one for one in checked(iter(plain), dataset, crc32c) if len(one)] == plain


@pytest.mark.parametrize("length", [0, 2, 5000, _MIB, 3 * _MIB])
def test_the_last_fragment_of_wrong_bytes_is_held_back(length: int) -> None:
    dataset = memoryview(_BYTES)[:length]
    crc32c = google_crc32c.value(bytes(dataset)) ^ 1
    assert not intact(dataset, crc32c)
    passed: list[bytes | memoryview] = []
    with pytest.raises(Corrupt):
        passed.extend(checked(message_buffers(1, b"command!", dataset, 4096), dataset, crc32c))
    sent = sum(len(buffer) for buffer in passed if isinstance(buffer, memoryview))
    assert sent < length or length == 0
    assert length - sent <= 4096


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_overwritten_while_it_leaves_never_arrives_whole(data: st.DataObject) -> None:
    """At some moment all bytes become another object's, as when a segment is used again while the sender sleeps."""
    length = data.draw(st.sampled_from([2, 5000, 33_000, _MIB, _MIB + 5000, 3 * _MIB]))
    mapped = bytearray(_BYTES[:length])
    right = bytes(mapped)
    other = bytes(byte ^ 0xFF for byte in right)
    dataset = memoryview(mapped)
    plain = [one for one in message_buffers(1, b"command!", dataset, 16384) if len(one)]
    moment = data.draw(st.integers(0, len(plain) + 8))
    arrived, gathered, steps = bytearray(), [], 0

    def send() -> None:
        for one in gathered:
            if isinstance(one, memoryview) or len(one) > 100:
                arrived.extend(one)
        gathered.clear()

    try:
        for buffer in checked(iter(plain), dataset, google_crc32c.value(right)):
            if not len(buffer):
                send()
            gathered.append(buffer)
            steps += 1
            if steps == moment:
                mapped[:] = other
        send()
    except Corrupt:
        assert moment <= steps
        return
    payload = bytes(arrived)[-length:] if length > 100 else right
    assert payload == right

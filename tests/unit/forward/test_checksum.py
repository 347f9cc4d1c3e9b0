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
    plain = list(message_buffers(1, b"command!", dataset, max_pdu_bytes))
    assert list(checked(iter(plain), dataset, crc32c)) == plain


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

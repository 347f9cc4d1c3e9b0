"""Wrong bytes never leave whole, whatever the sizes of dataset and fragments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.dicom.message import message_groups
from relaypacs.forward.checksum import Corrupt, checked, intact

_MIB = 1 << 20
_BYTES = os.urandom(3 * _MIB)


_COMMAND = b"command!"


def _datasets(groups: Iterable[Sequence[bytes | memoryview]]) -> list[bytes]:
    """What each group carries of the dataset: all behind the command set, without the headers of 12 bytes."""
    found = []
    for number, group in enumerate(groups):
        parts = [bytes(part) for part in group][number == 0 :]
        assert all(len(header) == 12 for header in parts[::2])
        found.append(b"".join(parts[1::2]))
    return found


@given(
    st.sampled_from([0, 1, 2, 100, 65536, 65538, _MIB - 1, _MIB, _MIB + 1, 2 * _MIB, 3 * _MIB]),
    st.sampled_from([0, 4096, 16384]),
)
@settings(max_examples=40, deadline=None)
def test_right_bytes_pass_unchanged(length: int, max_pdu_bytes: int) -> None:
    dataset = memoryview(_BYTES)[:length]
    crc32c = google_crc32c.value(bytes(dataset))
    assert intact(dataset, crc32c)
    plain = list(message_groups(1, _COMMAND, dataset, max_pdu_bytes))
    passed = list(checked(iter(plain), dataset, crc32c))
    assert [b"".join(group) for group in passed] == [b"".join(group) for group in plain]
    assert b"".join(_datasets(passed)) == dataset


@pytest.mark.parametrize("length", [0, 2, 5000, 65536, 65538, _MIB, 3 * _MIB])
def test_the_last_fragment_of_wrong_bytes_is_held_back(length: int) -> None:
    dataset = memoryview(_BYTES)[:length]
    crc32c = google_crc32c.value(bytes(dataset)) ^ 1
    assert not intact(dataset, crc32c)
    passed: list[Sequence[bytes | memoryview]] = []
    with pytest.raises(Corrupt):
        passed.extend(checked(message_groups(1, _COMMAND, dataset, 4096), dataset, crc32c))
    sent = sum(map(len, _datasets(passed)))
    assert sent < length or length == 0
    assert length - sent <= 4096 or length <= 65536


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_overwritten_while_it_leaves_never_arrives_whole(data: st.DataObject) -> None:
    """At some moment all bytes become another object's, as when a segment is used again while the sender sleeps."""
    length = data.draw(st.sampled_from([2, 5000, 33_000, 65_538, _MIB, _MIB + 5000, 3 * _MIB]))
    mapped = bytearray(_BYTES[:length])
    right = bytes(mapped)
    other = bytes(byte ^ 0xFF for byte in right)
    dataset = memoryview(mapped)
    moment = data.draw(st.integers(0, 12))
    arrived: list[bytes] = []
    steps = 0

    def overwrite_at_its_moment() -> None:
        nonlocal steps
        steps += 1
        if steps == moment:
            mapped[:] = other

    def plain() -> Iterator[Sequence[bytes | memoryview]]:
        for group in message_groups(1, _COMMAND, dataset, 16384):
            overwrite_at_its_moment()  # before it is looked at
            yield group

    try:
        for group in checked(plain(), dataset, google_crc32c.value(right)):
            overwrite_at_its_moment()  # before it is sent
            arrived.append(b"".join(bytes(part) for part in group))
    except Corrupt:
        assert moment <= steps
        return
    whole = list(message_groups(1, _COMMAND, memoryview(right), 16384))
    assert arrived == [b"".join(group) for group in whole]

"""The wire form of the messages we send, read back by pynetdicom's own decoder."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.dicom.message import GATHERED_BYTES, encode_message, message_groups
from relaypacs.dicom.pdu import COMMAND, HEADER, LAST, MAX_FRAGMENTS
from tests.unit.dicom.test_pdu import stock


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=3000)), st.sampled_from([0, 128, 129, 1000, 4096])
)
def test_messages_are_read_by_pynetdicom(command: bytes, dataset: bytes | None, max_pdu: int) -> None:
    view = None if dataset is None else memoryview(dataset)
    groups = list(message_groups(7, command, view, max_pdu))
    stream = b"".join(b"".join(group) for group in groups)
    if dataset is None:
        assert stream == encode_message(7, command, max_pdu)
    pdvs = stock(stream)
    assert {context_id for context_id, _, _ in pdvs} == {7}
    commands = [(control, data) for _, control, data in pdvs if control & COMMAND]
    datasets = [(control, data) for _, control, data in pdvs if not control & COMMAND]
    for expected, found in ((command, commands), (dataset, datasets)):
        if expected is None:
            assert not found
            continue
        assert b"".join(data for _, data in found) == expected
        assert [bool(control & LAST) for control, _ in found] == [False] * (len(found) - 1) + [True]
        assert all(len(data) % 2 == 0 for _, data in found[:-1])
    position = 0
    while position < len(stream):
        _, length = HEADER.unpack_from(stream, position)
        assert length <= (max_pdu or 131072)
        position += 6 + length


@pytest.mark.parametrize("max_pdu_bytes", [128, 4096, 16384, 0, 1 << 32])
@pytest.mark.parametrize(
    "length", [1, 2, GATHERED_BYTES, GATHERED_BYTES + 1, (1 << 20) - 6, 1 << 20, (2 << 20) - 12, (3 << 20) + 5]
)
def test_a_dataset_is_viewed_not_copied_and_gathered_in_bounded_groups(length: int, max_pdu_bytes: int) -> None:
    dataset = memoryview(bytearray(os.urandom(length)))
    groups = list(message_groups(1, b"command", dataset, max_pdu_bytes))
    views = [[part for part in group if isinstance(part, memoryview)] for group in groups]
    assert b"".join(view for group in views for view in group) == dataset
    assert all(view.obj is dataset.obj for group in views for view in group)
    assert max(sum(map(len, group)) for group in views) <= 1 << 20
    assert max(map(len, groups)) <= 2 * MAX_FRAGMENTS + 1 or length <= GATHERED_BYTES
    assert len(groups) == 1 if length <= GATHERED_BYTES else len(views[-1]) == 1
    assert stock(b"".join(b"".join(group) for group in groups))[-1][1] == LAST


def test_peer_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="only 10 bytes"):
        list(message_groups(1, b"x", None, 10))
    with pytest.raises(ValueError, match="only 10 bytes"):
        encode_message(1, b"x", 10)

"""Headers, pads and end marks: what goes in comes out, and nothing that was changed is valid."""

from __future__ import annotations

import pytest
from google_crc32c import extend
from hypothesis import given, settings
from hypothesis import strategies as st

from relaypacs.errors import SpoolError
from relaypacs.model import EventRecord, ObjectMeta, ObjectRecord
from relaypacs.spool import format as spool_format
from relaypacs.spool.format import BLOCK, PAGE, decode_end, decode_header, end_header, end_mark, pad
from relaypacs.spool.records import begin_event, begin_object, event_payload, to_record
from tests.unit.spool.made import meta

GENERATION = "0123456789abcdef0123456789abcdef"

_any = st.text(max_size=16)
metas = st.builds(
    ObjectMeta,
    association_id=st.text(max_size=40),
    calling_ae=_any,
    called_ae=_any,
    peer=_any,
    received_at=st.floats(0, 4e9),
    sop_class_uid=_any,
    sop_instance_uid=_any,
    transfer_syntax_uid=_any,
)


def _page(meta: ObjectMeta, *, number: int = 0, previous: int = 0, length: int = 0, crc: int = 0) -> bytes:
    page, _ = end_header(
        begin_object(meta),
        generation=GENERATION.encode(),
        number=number,
        since=number // 2,
        previous=previous,
        payload_length=length,
        payload_crc32c=crc,
    )
    return page.ljust(PAGE, b"\xaa")


@given(
    metas, st.integers(0, 999_999_999), st.integers(0, 0xFFFFFFFF), st.integers(0, 1 << 45), st.integers(0, 0xFFFFFFFF)
)
def test_header_round_trips(meta: ObjectMeta, number: int, previous: int, length: int, crc: int) -> None:
    header = decode_header(_page(meta, number=number, previous=previous, length=length, crc=crc))
    assert header is not None
    assert (header.generation, header.number, header.previous) == (GENERATION, number, previous)
    assert header.since == number // 2
    record = to_record(header, 8192, b"")
    assert isinstance(record, ObjectRecord)
    assert record.meta == meta
    assert (record.dataset_length, record.dataset_crc32c) == (length, crc)
    assert record.dataset_offset - record.file_offset == header.head_length
    assert record.file_length == header.head_length + length
    assert record.at.end % PAGE == 0
    assert record.at.end >= record.dataset_offset + length


def test_every_flipped_bit_of_a_header_is_seen() -> None:
    page = _page(meta(), number=7, previous=0x1234, length=99, crc=0xFFEE)
    header = decode_header(page)
    assert header is not None
    for at in range(spool_format.HEADER_BYTES + header.head_length):
        for bit in range(8):
            changed = bytearray(page)
            changed[at] ^= 1 << bit
            assert decode_header(bytes(changed)) is None, at


def test_every_flipped_bit_of_an_end_mark_is_seen() -> None:
    for mark in (end_mark(GENERATION, 1.0), end_mark(GENERATION, 1.0, records=3, chain=0xABCD)):
        assert decode_end(mark) is not None
        for at in range(2 * BLOCK):
            changed = bytearray(mark)
            changed[at] ^= 1
            found = decode_end(bytes(changed))
            assert found is None, at


@settings(max_examples=50)
@given(st.binary(max_size=PAGE))
def test_noise_is_no_header_and_no_end(noise: bytes) -> None:
    assert decode_header(noise) is None
    assert decode_end(noise) is None
    page = bytearray(_page(meta()))
    page[600 : 600 + len(noise)] = noise
    decode_header(bytes(page[:PAGE]))
    decode_end(noise[:BLOCK] + b'{"crc":"%08x"}' % extend(0, noise[:BLOCK]))


def test_the_longest_legal_identifiers_fit() -> None:
    uid = "1." * 31 + "11"
    assert len(uid) == 64
    longest = meta(
        association_id="a" * 40,
        calling_ae="é" * 16,
        called_ae="\0" * 16,
        peer="[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%a-long-interface]:65535",
        sop_class_uid=uid,
        sop_instance_uid=uid,
        transfer_syntax_uid=uid,
    )
    header = decode_header(_page(longest, number=999_999_999, length=1 << 50))
    assert header is not None
    record = to_record(header, 0, b"")
    assert isinstance(record, ObjectRecord)
    assert record.meta == longest


@pytest.mark.parametrize("field", ["calling_ae", "peer", "sop_instance_uid", "association_id", "transfer_syntax_uid"])
@pytest.mark.parametrize("length", [3000, 70000])
def test_what_no_standard_allows_is_refused_by_name(field: str, length: int) -> None:
    with pytest.raises(SpoolError, match=r"don't fit|longer than its length"):
        begin_object(meta(**{field: "1" * length}))


def test_a_hostile_association_id_never_names_an_entry() -> None:
    page = _page(meta(association_id="../../etc/cron.d/x\n\0é"), number=3)
    assert page[2560:].startswith(b"0123456789abcdef-000003-______etc_cron_d_x___.dcm\0")


@pytest.mark.parametrize("end", [*range(0, PAGE, 37), *range(0, 2 * PAGE, BLOCK), 1, 511, 513, PAGE - 1])
def test_a_pad_ends_on_the_page(end: int) -> None:
    filler = pad(end)
    assert (end + len(filler)) % PAGE == 0
    assert len(filler) < PAGE


@given(
    st.text(max_size=20), st.floats(0, 4e9), st.dictionaries(st.text(max_size=9), st.none() | st.text() | st.integers())
)
def test_event_round_trips(kind: str, time: float, body: dict[str, object]) -> None:
    payload = event_payload(kind, time, body)
    page, _ = end_header(
        begin_event(kind, time),
        generation=GENERATION.encode(),
        number=0,
        since=0,
        previous=0,
        payload_length=len(payload),
        payload_crc32c=0,
    )
    header = decode_header((page + payload).ljust(PAGE, b"\0")[:PAGE])
    assert header is not None
    record = to_record(header, 0, payload)
    assert isinstance(record, EventRecord)
    assert (record.kind, record.time, record.body) == (kind, time, body)


def test_an_oversized_event_is_refused() -> None:
    with pytest.raises(SpoolError, match="over the spool's limit"):
        event_payload("audit", 1.0, {"text": "x" * (2 << 20)})


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_no_header_is_made_of_a_time_that_is_no_number(time: float) -> None:
    """It would be written and could not be read back."""
    with pytest.raises((ValueError, OverflowError)):
        begin_event("end", time)

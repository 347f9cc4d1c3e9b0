"""PDUs byte by byte: any cut gives the same fragments, pynetdicom's decoder agrees, and lies are caught."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import pdu as stock_pdu

from relaypacs.dicom.pdu import (
    COMMAND,
    HEADER,
    LAST,
    MAX_EMPTY_FRAGMENTS,
    MAX_FRAGMENTS,
    P_DATA_TF,
    AbortReason,
    PduError,
    PduWalker,
    Stop,
    abort_pdu,
    check_other,
    read_associate_head,
    reject_pdu,
)
from tests.peers.raw import associate_rq, pdu, pdv

MAX_PDU = 4096
CONTEXT = 5


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A command set and a dataset, and the P-DATA-TFs that carry them: any fragments, any of them empty, any PDUs."""
    items: list[bytes] = []
    whole: list[bytes] = []
    for bits in (COMMAND, 0):
        parts = draw(st.lists(st.binary(max_size=60), min_size=1, max_size=6))
        whole.append(b"".join(parts))
        items += [pdv(CONTEXT, bits | (LAST if n == len(parts) - 1 else 0), part) for n, part in enumerate(parts)]
    stream = b""
    while items:
        count = draw(st.integers(1, len(items)))
        stream += pdu(P_DATA_TF, b"".join(items[:count]))
        items = items[count:]
    return stream, whole[0], whole[1]


@st.composite
def alike(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A message as most are sent: a PDV in each PDU, long runs of the same length."""
    command, dataset = b"command!", b""
    stream = pdu(P_DATA_TF, pdv(CONTEXT, COMMAND | LAST, command))
    for length, count in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6)), min_size=1, max_size=4)):
        for _ in range(count):
            part = draw(st.binary(min_size=length, max_size=length))
            dataset += part
            stream += pdu(P_DATA_TF, pdv(CONTEXT, 0, part))
    stream += pdu(P_DATA_TF, pdv(CONTEXT, LAST, b"end"))
    return stream, command, dataset + b"end"


def read(stream: bytes, cuts: list[int], *, capacity: int | None = None) -> tuple[bytes, bytes, int]:
    """Walk `stream` as it would come in pieces; what was found, and how many bytes were consumed."""
    walker = PduWalker(MAX_PDU)
    walker.expect_command()
    buffer = memoryview(bytearray(capacity or len(stream)))
    found = [b"", b""]
    part = position = end = consumed = 0
    edges = [*sorted(cuts), len(stream)]
    arrived = 0
    while True:
        fragments: list[memoryview] = []
        position, why = walker.walk(buffer, position, end, fragments)
        found[part] += b"".join(fragments)
        if why is Stop.LAST:
            part += 1
            if part == 2:
                return found[0], found[1], consumed + position
            walker.expect_dataset(walker.context_id)
            continue
        if why is Stop.FULL:
            continue
        assert why is Stop.MORE
        assert end - position < 6 or part < 2
        left = bytes(buffer[position:end])
        consumed += position
        buffer[: len(left)] = left
        position, end = 0, len(left)
        target = next(edge for edge in edges if edge > arrived)
        take = min(target - arrived, len(buffer) - end)
        buffer[end : end + take] = stream[arrived : arrived + take]
        arrived += take
        end += take


@settings(max_examples=300, deadline=None)
@given(messages() | alike(), st.data())
def test_any_cut_gives_what_the_whole_gives(message: tuple[bytes, bytes, bytes], data: st.DataObject) -> None:
    stream, command, dataset = message
    cuts = data.draw(st.lists(st.integers(1, len(stream)), max_size=20))
    capacity = data.draw(st.one_of(st.none(), st.integers(8, len(stream) + 8)))
    assert read(stream, cuts, capacity=capacity) == (command, dataset, len(stream))


@settings(max_examples=50, deadline=None)
@given(messages() | alike())
def test_byte_by_byte(message: tuple[bytes, bytes, bytes]) -> None:
    stream, command, dataset = message
    assert read(stream, list(range(len(stream)))) == (command, dataset, len(stream))


def stock(stream: bytes) -> list[tuple[int, int, bytes]]:
    """The PDVs as pynetdicom decodes them: context id, control header, data."""
    found = []
    position = 0
    while position < len(stream):
        _, length = HEADER.unpack_from(stream, position)
        decoded = stock_pdu.P_DATA_TF()
        decoded.decode(stream[position : position + 6 + length])
        for context_id, data in decoded.to_primitive().presentation_data_value_list:
            found.append((context_id, data[0], data[1:]))
        position += 6 + length
    return found


@settings(max_examples=200, deadline=None)
@given(messages() | alike())
def test_pynetdicom_decodes_the_same(message: tuple[bytes, bytes, bytes]) -> None:
    stream, command, dataset = message
    pdvs = stock(stream)
    assert b"".join(data for _, control, data in pdvs if control & COMMAND) == command
    assert b"".join(data for _, control, data in pdvs if not control & COMMAND) == dataset
    assert read(stream, []) == (command, dataset, len(stream))


@settings(max_examples=500, deadline=None)
@given(
    messages() | alike(),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_mutated_streams_end_the_same_however_they_are_cut(
    message: tuple[bytes, bytes, bytes], changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    mutated = bytearray(message[0])
    for place, value in changes:
        mutated[place % len(mutated)] = value
    stream = bytes(mutated)
    cuts = data.draw(st.lists(st.integers(1, len(stream)), max_size=10))

    def outcome(at: list[int]) -> object:
        try:
            return read(stream, at)
        except PduError as error:
            return error.reason, str(error)
        except (StopIteration, AssertionError):
            return "unfinished, or another PDU"

    assert outcome(cuts) == outcome([]) == outcome(list(range(len(stream))))


def test_a_run_of_like_pdus_pauses_the_walk_and_ends_at_the_first_that_differs() -> None:
    run = pdu(P_DATA_TF, pdv(1, 0, b"abc")) * (MAX_FRAGMENTS + 3)
    for follows, why in (
        (pdu(P_DATA_TF, pdv(1, LAST, b"abc")), Stop.LAST),
        (pdu(P_DATA_TF, pdv(1, 0, b"ab") + pdv(1, LAST, b"")), Stop.LAST),
        (abort_pdu(0, 0), Stop.OTHER),
        (pdu(P_DATA_TF, pdv(1, 0, b"abc"))[:-1], Stop.MORE),
        (pdu(P_DATA_TF, pdv(3, 0, b"abc")), None),
        (pdu(P_DATA_TF, pdv(1, COMMAND, b"abc")), None),
    ):
        walker = PduWalker(MAX_PDU)
        walker.expect_dataset(1)
        view = memoryview(run + follows)
        found: list[memoryview] = []
        position, paused = walker.walk(view, 0, len(view), found)
        assert (paused, len(found)) == (Stop.FULL, MAX_FRAGMENTS)
        assert b"".join(found) == b"abc" * MAX_FRAGMENTS
        rest: list[memoryview] = []
        if why is None:
            with pytest.raises(PduError, match="belongs to no message"):
                walker.walk(view, position, len(view), rest)
        else:
            assert walker.walk(view, position, len(view), rest)[1] is why
        assert b"".join(rest).startswith(b"abc" * 3)


def test_one_byte_fragments_pause_the_walk() -> None:
    stream = pdu(P_DATA_TF, pdv(1, COMMAND, b"x") * (MAX_FRAGMENTS + 3))
    walker = PduWalker(1 << 20)
    walker.expect_command()
    fragments: list[memoryview] = []
    position, why = walker.walk(memoryview(stream), 0, len(stream), fragments)
    assert (why, len(fragments)) == (Stop.FULL, MAX_FRAGMENTS)
    fragments.clear()
    _, why = walker.walk(memoryview(stream), position, len(stream), fragments)
    assert (why, len(fragments)) == (Stop.MORE, 3)


@pytest.mark.parametrize("control", [COMMAND, 0], ids=["command", "dataset"])
def test_fragments_without_end_that_hold_nothing(control: int) -> None:
    nothing = struct.pack(">BxIIBB", 4, 6, 2, 1, control)
    something = struct.pack(">BxIIBBc", 4, 7, 3, 1, control, b"x")

    def walk(data: bytes) -> int:
        walker = PduWalker(16384)
        if control:
            walker.expect_command()
        else:
            walker.expect_dataset(1)
        found: list[memoryview] = []
        walker.walk(memoryview(data), 0, len(data), found)
        return len(found)

    assert walk((nothing * MAX_EMPTY_FRAGMENTS + something) * 3) == 3
    with pytest.raises(PduError):
        walk(something + nothing * (MAX_EMPTY_FRAGMENTS + 1))


def test_other_pdus_are_left_where_they_are() -> None:
    stream = pdu(5, bytes(4))
    walker = PduWalker(MAX_PDU)
    walker.expect_command()
    assert walker.walk(memoryview(stream), 0, len(stream), []) == (0, Stop.OTHER)


@pytest.mark.parametrize(
    ("kind", "length", "associated", "reason"),
    [
        (0, 4, True, AbortReason.UNRECOGNIZED_PDU),
        (8, 4, False, AbortReason.UNRECOGNIZED_PDU),
        (1, 100, True, AbortReason.UNEXPECTED_PDU),
        (2, 100, True, AbortReason.UNEXPECTED_PDU),
        (4, 4, False, AbortReason.UNEXPECTED_PDU),
        (1, 1001, False, AbortReason.INVALID_PARAMETER),
        (2, 0xFFFFFFFF, False, AbortReason.INVALID_PARAMETER),
        (7, 5, True, AbortReason.INVALID_PARAMETER),
        (5, 0xFFFFFFFF, True, AbortReason.INVALID_PARAMETER),
    ],
)
def test_other_pdus_are_capped_before_they_are_read(kind: int, length: int, associated: bool, reason: int) -> None:
    with pytest.raises(PduError) as caught:
        check_other(kind, length, associated=associated, max_associate_bytes=1000)
    assert caught.value.reason == reason


def test_rejection_and_abort_are_what_pynetdicom_reads() -> None:
    rejection = stock_pdu.A_ASSOCIATE_RJ()
    rejection.decode(reject_pdu(2, 3, 2))
    assert (rejection.result, rejection.source, rejection.reason_diagnostic) == (2, 3, 2)
    abort = stock_pdu.A_ABORT_RQ()
    abort.decode(abort_pdu(2, 6))
    assert (abort.source, abort.reason_diagnostic) == (2, 6)


def test_associate_head() -> None:
    head = read_associate_head(associate_rq(calling=b"CT", called=b"NODE")[6:])
    assert (head.calling_ae.strip(), head.called_ae.strip(), head.protocol_version) == (b"CT", b"NODE", 1)
    assert head.application_context == "1.2.840.10008.3.1.1.1"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_associate_head_of_anything(body: bytes) -> None:
    try:
        head = read_associate_head(body)
    except PduError:
        return
    assert struct.unpack(">H", body[:2])[0] == head.protocol_version

"""What was proposed survives being written down small, and is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relaypacs.dicom.contexts import VERIFICATION, storage_offer
from relaypacs.dicom.pdu import HEADER_BYTES, read_associate_head
from relaypacs.dicom.proposals import Proposed, describe, read_description
from tests.peers.raw import CT, EXPLICIT, IMPLICIT, associate_rq, item

OFFER = storage_offer(transfer_syntaxes=(EXPLICIT,))
JPEG_LS = "1.2.840.10008.1.2.4.80"
MR = "1.2.840.10008.5.1.4.1.1.4"


def items(*contexts: tuple[int, str, tuple[str, ...]]) -> bytes:
    return read_associate_head(associate_rq(contexts=contexts)[HEADER_BYTES:]).contexts


def test_with_the_answers() -> None:
    said = describe(
        items((1, CT, (JPEG_LS,)), (3, CT, (JPEG_LS, EXPLICIT)), (5, "1.2.3", (EXPLICIT,)), (7, CT, (JPEG_LS,))), OFFER
    )
    assert read_description(said.text) == [
        Proposed(CT, (JPEG_LS,), 4),
        Proposed(CT, (JPEG_LS, EXPLICIT), 0, EXPLICIT),
        Proposed("1.2.3", (EXPLICIT,), 3),
    ]
    assert not said.useless


def test_without_answers() -> None:
    said = describe(items((1, CT, (JPEG_LS,))), None)
    assert read_description(said.text) == [Proposed(CT, (JPEG_LS,), None)]
    assert not said.useless


def test_useless_is_where_nothing_can_be_sent() -> None:
    echo = (3, VERIFICATION, (IMPLICIT,))
    assert describe(items((1, CT, (JPEG_LS,))), OFFER).useless
    assert describe(items((1, CT, (JPEG_LS,)), echo), OFFER).useless
    assert describe(b"", OFFER).useless
    assert not describe(items(echo), OFFER).useless
    assert not describe(items((1, CT, (JPEG_LS,)), (5, MR, (EXPLICIT,))), OFFER).useless


def test_bounded_whatever_is_proposed() -> None:
    syntaxes = tuple(f"1.2.3.{number}" for number in range(120))
    wide = items(*((2 * n + 1, f"{'9' * 50}.{n}", syntaxes) for n in range(128)))
    said = describe(wide, OFFER)
    assert 0 < len(said.text) <= 16_000
    assert all(len(one.transfer_syntaxes) <= 16 for one in read_description(said.text))


def test_what_is_broken_is_left_out() -> None:
    whole = items((1, CT, (EXPLICIT,)))
    assert read_description(describe(whole + b"\x20\0\0\xff", None).text) == [Proposed(CT, (EXPLICIT,), None)]
    assert describe(item(0x20, b"\0\0\0\0"), OFFER).text == ""


UIDS = st.text('0123456789.~=\n\0"x', max_size=20).map(str.strip)


@given(st.lists(st.tuples(UIDS, st.lists(UIDS.filter(bool), max_size=9)), max_size=20))
def test_uids_come_back_as_they_were(proposed: list[tuple[str, list[str]]]) -> None:
    sent = items(
        *((2 * n + 1, f"{uid}\0", tuple(f"{one}\0" for one in some)) for n, (uid, some) in enumerate(proposed))
    )
    expected = dict.fromkeys(Proposed(uid, tuple(syntaxes), None) for uid, syntaxes in proposed)
    assert read_description(describe(sent, None).text) == list(expected)


def test_what_is_no_description_is_nothing() -> None:
    for text in ("", "x", "{}", "[1]", '[["1.2"]]', "[[1,2,3,4]]"):
        assert read_description(text) == []

"""What is accepted depends on what the caller's destinations take, in the order the modality proposes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination, Rule
from tests.peers.raw import AC, CT, EXPLICIT, IMPLICIT, MR, Raw, associate_rq
from tests.peers.receiver import Receiver

JPEG_LS = "1.2.840.10008.1.2.4.80"
CONTEXTS = ((1, CT, (JPEG_LS, IMPLICIT, EXPLICIT)), (3, CT, (JPEG_LS,)), (5, MR, (JPEG_LS, EXPLICIT)))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """CT goes to a PACS that takes little, MR to one that says nothing of itself."""
    old = Destination(
        name="old",
        kind="dimse",
        host="h",
        called_ae="OLD",
        transfer_syntaxes=(EXPLICIT, IMPLICIT),
        sop_classes=("CT*",),
    )
    new = Destination(name="new", kind="dimse", host="h", called_ae="NEW")
    rules = (Rule(name="ct", calling_ae="CT_*", to=("old",)), Rule(name="all", calling_ae="MIXED", to=("old", "new")))
    with Receiver(tmp_path / "spool", tables={"destination": (old, new), "rule": rules}) as receiver:
        yield receiver


def accepted(peer: Raw, calling: bytes) -> dict[int, tuple[int, str]]:
    """Result and transfer syntax by context id (PS3.8 table 9-18)."""
    peer.send(associate_rq(calling=calling, contexts=CONTEXTS))
    kind, body = peer.read_pdu()
    assert kind == AC
    found, at = {}, 68
    while at < len(body):
        length = int.from_bytes(body[at + 2 : at + 4], "big")
        if body[at] == 0x21:
            found[body[at + 4]] = (body[at + 6], body[at + 12 : at + 4 + length].decode())
        at += 4 + length
    return found


def test_only_what_a_destination_takes(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        found = accepted(peer, b"CT_1")
        assert found[1] == (0, IMPLICIT)
        assert found[3][0] == 4  # transfer syntaxes not supported
        assert found[5][0] == 3  # abstract syntax not supported
        assert peer.store(b"whole", sop_instance="1.2.3") == 0
        peer.release()
    receiver.wait_ends(1)
    (stored,) = receiver.objects()
    assert stored.record.meta.transfer_syntax_uid == IMPLICIT


@pytest.mark.parametrize("calling", [b"MIXED", b"ELSEWHERE"])
def test_everything_where_one_takes_it_or_nothing_is_known(receiver: Receiver, calling: bytes) -> None:
    with Raw(receiver.port) as peer:
        assert accepted(peer, calling) == dict.fromkeys((1, 3, 5), (0, JPEG_LS))
        peer.release()

"""Reception at a live port: what a well-behaved peer sees, and what is in the spool then."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.spool.reader import SpoolReader
from tests.peers.ports import wait_until
from tests.peers.raw import (
    AC,
    COMMAND,
    CT,
    DATA,
    EXPLICIT,
    IMPLICIT,
    LAST,
    MR,
    VERIFICATION,
    Raw,
    element,
    pdu,
    pdv,
    request,
    store_rq,
)
from tests.peers.receiver import Receiver

DATASET = bytes(range(256)) * 391  # 100,096 bytes, more than a PDU, less than a buffer


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "spool") as running:
        yield running


def test_objects_are_stored_byte_for_byte_with_their_association(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        assert peer.associate(calling=b"CT_3") == 2
        for number in range(3):
            assert peer.store(DATASET[: 1000 * (number + 1)], message_id=number, sop_instance=f"1.2.{number}") == 0
        peer.release()
    (end,) = receiver.wait_ends(1)
    stored = receiver.objects()
    assert [one.dataset for one in stored] == [DATASET[:1000], DATASET[:2000], DATASET[:3000]]
    meta = stored[2].record.meta
    assert (meta.calling_ae, meta.called_ae, meta.sop_class_uid) == ("CT_3", "RELAYPACS", CT)
    assert (meta.sop_instance_uid, meta.transfer_syntax_uid) == ("1.2.2", EXPLICIT)
    assert meta.association_id == end["association_id"]
    assert (end["outcome"], end["objects"], end["bytes"]) == ("released", 3, 6000)
    assert end["started_at"] <= meta.received_at <= end["ended_at"]


def test_response_names_the_request(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send_message(store_rq(message_id=4711, sop_instance="1.2.9"), DATASET)
        answer = peer.read_command()
        assert answer[0x0100] == b"\x01\x80"
        assert answer[0x0120] == (4711).to_bytes(2, "little")
        assert answer[0x0800] == b"\x01\x01"
        assert answer[0x0002].rstrip(b"\0").decode() == CT
        assert answer[0x1000].rstrip(b"\0") == b"1.2.9"


def test_large_object_is_larger_than_any_buffer(receiver: Receiver) -> None:
    dataset = DATASET * 50
    with Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(dataset) == 0
    (stored,) = receiver.objects()
    assert stored.dataset == dataset


def test_byte_by_byte_and_all_at_once(receiver: Receiver) -> None:
    command = store_rq()
    stream = pdu(DATA, pdv(1, COMMAND, command[:7]) + pdv(1, COMMAND, b"") + pdv(1, COMMAND | LAST, command[7:]))
    stream += pdu(DATA, pdv(1, 0, b"") + pdv(1, 0, b"abcd") + pdv(1, 0, b"ef")) + pdu(DATA, pdv(1, LAST, b""))
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in stream:
            peer.send(bytes((byte,)))
        assert peer.read_status() == 0
        # Command and data in one PDU, and two messages in one write.
        together = pdu(DATA, pdv(1, COMMAND | LAST, command) + pdv(1, LAST, b"gh"))
        peer.send(together + together)
        assert (peer.read_status(), peer.read_status()) == (0, 0)
    assert [one.dataset for one in receiver.objects()] == [b"abcdef", b"gh", b"gh"]


def test_each_context_gets_the_first_syntax_its_proposer_lists(receiver: Receiver) -> None:
    jpeg, unknown = "1.2.840.10008.1.2.4.50", "1.2.3.4.5"
    contexts = [
        (1, CT, (jpeg, EXPLICIT)),
        (3, CT, (IMPLICIT, jpeg)),
        (5, CT, (unknown, EXPLICIT)),
        (7, CT, (unknown,)),
        (9, unknown, (EXPLICIT,)),
    ]
    with Raw(receiver.port) as peer:
        assert peer.associate(contexts=contexts) == 2
        for context_id, status in ((1, 0), (3, 0), (5, 0)):
            assert peer.store(b"data", context_id=context_id, sop_instance=f"1.{context_id}") == status
    syntaxes = [one.record.meta.transfer_syntax_uid for one in receiver.objects()]
    assert syntaxes == [jpeg, IMPLICIT, EXPLICIT]


def test_rejected_contexts_say_why(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        from tests.peers.raw import associate_rq

        peer.send(associate_rq(contexts=[(1, CT, ("1.2.3",)), (3, "1.2.3.4", (EXPLICIT,)), (5, MR, (EXPLICIT,))]))
        kind, body = peer.read_pdu()
        assert kind == 2
        results = {}
        position = 68
        while position < len(body):
            length = int.from_bytes(body[position + 2 : position + 4], "big")
            if body[position] == 0x21:
                results[body[position + 4]] = body[position + 6]
            position += 4 + length
        assert results == {1: 4, 3: 3, 5: 0}


def test_echo_between_objects(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        for number in range(3):
            peer.send_message(request(0x0030, message_id=number + 7), context_id=3)
            answer = peer.read_command()
            assert (answer[0x0100], answer[0x0120]) == (b"\x30\x80", bytes((number + 7, 0)))
            assert answer[0x0900] == b"\0\0"
            assert peer.store(b"data") == 0
        peer.release()
    (end,) = receiver.wait_ends(1)
    assert end["objects"] == 3


@pytest.mark.parametrize("field", [0x0020, 0x0010, 0x0021, 0x0100, 0x0130, 0x0140])
def test_operations_we_do_not_offer_are_unrecognized(receiver: Receiver, field: int) -> None:
    """C-FIND, C-GET, C-MOVE, N-EVENT-REPORT, N-ACTION, N-CREATE: 0211 (PS3.7 C.5.9), and the association goes on."""
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send_message(request(field, sop_class=CT, dataset=True), b"identifier")
        answer = peer.read_command()
        assert answer[0x0100] == (field | 0x8000).to_bytes(2, "little")
        assert answer[0x0900] == b"\x11\x02"
        assert peer.store(b"data") == 0


def test_cancel_is_not_answered(receiver: Receiver) -> None:
    cancel = element(0x0100, b"\xff\x0f") + element(0x0120, b"\x01\0") + element(0x0800, b"\x01\x01")
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send_message(cancel)
        assert peer.store(b"data", message_id=9) == 0


def test_small_pdus_of_the_peer_are_respected(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate(max_length=128)
        peer.send_message(store_rq(sop_instance="1." + "2" * 62), b"data")
        seen = []
        while True:
            kind, body = peer.read_pdu()
            assert kind == DATA
            assert len(body) <= 128
            seen.append(body)
            if body[5] & LAST:
                break
        assert len(seen) > 1


def test_idle_association_is_aborted_in_time(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", idle_timeout_seconds=0.5) as receiver:
        with Raw(receiver.port) as peer:
            peer.associate()
            assert peer.read_pdu() == (7, b"\0\0\x02\0")
        (end,) = receiver.wait_ends(1)
        assert end["outcome"] == "timeout"


def test_silence_within_an_object_ends_it(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", pdu_timeout_seconds=0.4) as receiver:
        with Raw(receiver.port) as peer:
            peer.associate()
            assert peer.store(b"first") == 0
            peer.send(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(1, 0, b"part")))
            assert peer.read_pdu()[0] == 7
        (end,) = receiver.wait_ends(1)
        assert (end["outcome"], end["objects"]) == ("timeout", 1)
        assert [one.dataset for one in receiver.objects()] == [b"first"]


def test_verification_alone_is_served(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        assert peer.associate(contexts=[(1, VERIFICATION, (IMPLICIT,))]) == 2
        peer.send_message(request(0x0030))
        assert peer.read_status() == 0


def test_an_idle_node_holds_no_segment(tmp_path: Path) -> None:
    """Else what was delivered could not be freed until somebody sends again."""
    with Receiver(tmp_path / "spool") as receiver:
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            time.sleep(1)  # what is given back at the end is younger than the association
            assert peer.store(b"data") == 0
            peer.release()
        reader = SpoolReader(tmp_path / "spool", recycle=False, recycle_segments=0)
        (generation,) = reader.generations()
        wait_until(lambda: reader.is_sealed(generation), "the segment is sealed", 25.0, every_seconds=0.5)
        reader.close()

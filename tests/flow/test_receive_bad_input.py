"""Reception at a live port: what a broken or hostile peer gets, and that nothing partial is ever stored."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.ports import wait_until
from tests.peers.raw import (
    ABORT,
    AC,
    COMMAND,
    CT,
    DATA,
    EXPLICIT,
    LAST,
    MR,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    VERIFICATION,
    Raw,
    associate_rq,
    element,
    item,
    pdu,
    pdv,
    request,
    store_rq,
)
from tests.peers.receiver import Receiver

UNRECOGNIZED, UNEXPECTED, INVALID = (b"\0\0\x02" + bytes((reason,)) for reason in (1, 2, 6))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path / "spool") as running:
        yield running
        with Raw(running.port) as peer:  # whatever was done to it, it still serves
            assert peer.associate() == AC
            assert peer.store(b"alive", sop_instance="1.9.9.9") == 0
            peer.release()


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ({"sop_instance": ""}, 0xC000),
        ({"sop_class": ""}, 0xC000),
        ({"sop_instance": "1." + "2" * 63}, 0x0117),
        ({"sop_instance": "1.2.x"}, 0x0117),
        ({"sop_instance": "../../etc/cron.d/x"}, 0x0117),
        ({"sop_instance": "1.2\n3"}, 0x0117),
        ({"sop_instance": "%s%n"}, 0x0117),
        ({"sop_instance": "1..2"}, 0x0117),
        ({"sop_class": MR}, 0x0122),
        ({"sop_class": "1.2.840.10008.1.1"}, 0x0122),
    ],
)
def test_objects_that_cannot_be_named(receiver: Receiver, what: dict[str, str], status: int) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        dataset = bytes(40_000)
        peer.send_message(store_rq(**what), dataset)  # type: ignore[arg-type]
        answer = peer.read_command()
        assert int.from_bytes(answer[0x0900], "little") == status
        comment = answer[0x0902].decode()
        assert comment
        assert len(comment) <= 64
        named = what.get("sop_instance")
        if named and status == 0x0117:
            assert 0x1000 not in answer  # nothing a peer made up comes back
            assert named not in comment
        assert peer.store(b"good", sop_instance="1.2.3") == 0  # and the association goes on
        peer.release()
    (end,) = receiver.wait_ends(1)
    assert end["objects"] == 1
    assert [one.dataset for one in receiver.objects()] == [b"good"]
    (line,) = receiver.lines("object-refused")
    assert line["status"] == f"{status:04X}"
    assert line["trace_id"] == end["association_id"]


def test_object_without_dataset(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(None) == 0xC000
        assert peer.store(b"") == 0xC000
        assert peer.store(b"good") == 0


@pytest.mark.parametrize(
    ("max_length", "more"),
    [
        (None, b""),
        (16384, item(0x55, b"SCANNER_3\0")),
        (16384, item(0x55, b"seventeen letters")),
        (16384, item(0x55, "GERÄT".encode("latin-1"))),
        (16384, item(0x5F, b"nobody knows this") + item(0x54, b"\0\0\1\1") + item(0x56, b"odd")),
        (16384, item(0x57, bytes(4)) * 8000),
    ],
    ids=["no length", "NUL", "long", "no ASCII", "unknown items", "thousands"],
)
def test_what_a_peer_says_of_itself_decides_nothing(receiver: Receiver, max_length: int | None, more: bytes) -> None:
    with Raw(receiver.port) as peer:
        assert peer.associate(max_length=max_length, more=more) == AC
        assert peer.store(b"data") == 0
        peer.send_message(request(0x0030, sop_class=VERIFICATION), context_id=3)
        assert peer.read_status() == 0
        peer.release()


@pytest.mark.parametrize(
    ("context_id", "sop_class", "status"),
    [(3, VERIFICATION, 0), (3, "", 0), (3, CT, 0x0122), (1, VERIFICATION, 0x0122), (1, CT, 0x0122)],
)
def test_every_echo_has_an_answer(receiver: Receiver, context_id: int, sop_class: str, status: int) -> None:
    asked = request(0x0030, sop_class=sop_class)
    if not sop_class:
        asked = element(0x0000, struct.pack("<I", len(asked) - 20)) + asked[20:]  # without the element
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send_message(asked, context_id=context_id)
        assert peer.read_status() == status
        assert peer.store(b"data") == 0


@pytest.mark.parametrize("said", [(2, 3), (255, 255)])
def test_an_abort_of_no_known_reason_is_no_error_of_ours(receiver: Receiver, said: tuple[int, int]) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send(pdu(ABORT, bytes((0, 0, *said))))
        assert peer.is_closed()
    (end,) = receiver.wait_ends(1)
    assert (end["outcome"], end["reason"]) == ("peer-aborted", f"the peer aborted ({said[0]}/{said[1]})")
    assert not receiver.lines("association-failed")


def test_a_command_of_empty_pieces_is_aborted(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        peer.send(pdu(DATA, pdv(1, COMMAND, b"")) * 1000)
        assert peer.read_pdu() == (ABORT, INVALID)


def test_storing_in_the_verification_context(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(b"data", context_id=3, sop_class="1.2.840.10008.1.1") == 0x0122


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (pdu(9, b"xyz"), UNRECOGNIZED),
        (pdu(0x16, b"\x03\x01"), UNRECOGNIZED),
        (associate_rq(), UNEXPECTED),
        (pdu(AC, bytes(68)), UNEXPECTED),
        (pdu(RJ, bytes(4)), UNEXPECTED),
        (pdu(RELEASE_RP, bytes(4)), UNEXPECTED),
        (pdu(DATA, bytes(8), length=0xFFFFFFFF), INVALID),
        (pdu(DATA, bytes(8), length=131073), INVALID),
        (pdu(RELEASE_RQ, bytes(4), length=0xFFFFFFFF), INVALID),
        (pdu(DATA, struct.pack(">IBB", 1, 1, 3)), INVALID),
        (pdu(DATA, struct.pack(">IBB", 0, 1, 3)), INVALID),
        (pdu(DATA, struct.pack(">IBB", 0xFFFFFFF0, 1, 3) + bytes(50)), INVALID),
        (pdu(DATA, struct.pack(">IBB", 99, 1, 3) + bytes(50)), INVALID),
        (pdu(DATA, pdv(1, LAST, b"data without a command")), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND, b"ab") + pdv(3, COMMAND | LAST, b"cd")), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND, b"ab") + pdv(1, LAST, b"cd")), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND, b"ab")) + pdu(RELEASE_RQ, bytes(4)), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND | LAST, store_rq())) + pdu(DATA, pdv(3, LAST, b"other context")), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND | LAST, store_rq()) + pdv(1, COMMAND | LAST, store_rq())), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND | LAST, b"\0\0\0\x01\x09\0\0\0ab")), INVALID),
        (pdu(DATA, pdv(1, COMMAND | LAST, b"")), INVALID),
        (pdu(DATA, pdv(1, COMMAND | LAST, store_rq(message_id=None))), INVALID),
        (pdu(DATA, pdv(99, COMMAND | LAST, store_rq()) + pdv(99, LAST, b"x")), INVALID),
        (pdu(DATA, pdv(1, COMMAND | LAST, request(0x8001))), UNEXPECTED),
        (pdu(DATA, pdv(1, COMMAND, bytes(60_000)) + pdv(1, COMMAND, bytes(6_000))), INVALID),
    ],
)
def test_broken_protocol_is_aborted_with_its_reason(receiver: Receiver, sent: bytes, answer: bytes) -> None:
    """PS3.8 9.3.8: source 2, reason 1 unrecognized, 2 unexpected PDU, 6 invalid parameter value."""
    with Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(b"good") == 0
        peer.send(sent)
        assert peer.read_pdu() == (ABORT, answer)
    (end,) = receiver.wait_ends(1)
    assert (end["outcome"], end["objects"]) == ("aborted", 1)
    assert end["reason"]
    assert len(receiver.objects()) == 1


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (pdu(DATA, pdv(1, 3, b"x")), UNEXPECTED),
        (pdu(RELEASE_RQ, bytes(4)), UNEXPECTED),
        (pdu(AC, bytes(68)), UNEXPECTED),
        (b"GET / HTTP/1.1\r\n\r\n", UNRECOGNIZED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", UNRECOGNIZED),
        (pdu(RQ, b"", length=0xFFFFFFFF), INVALID),
        (pdu(RQ, b"", length=(1 << 20) + 1), INVALID),
        (pdu(RQ, bytes(10)), INVALID),
        (pdu(RQ, associate_rq()[6:-3]), INVALID),
        (associate_rq(contexts=[(number % 256, CT, (EXPLICIT,)) for number in range(129)]), INVALID),
        (associate_rq(contexts=[(1, CT, (EXPLICIT,)), (1, MR, (EXPLICIT,))]), INVALID),
        (associate_rq(contexts=[(2, CT, (EXPLICIT,))]), INVALID),
        (associate_rq(max_length=6), INVALID),
        (associate_rq(contexts=[(1, "9" * 300, (EXPLICIT,))]), INVALID),
        (associate_rq(more=b"\x58\x00\xff\xff"), INVALID),
    ],
)
def test_broken_association_requests_are_aborted(receiver: Receiver, sent: bytes, answer: bytes) -> None:
    with Raw(receiver.port) as peer:
        peer.send(sent)
        assert peer.read_pdu() == (ABORT, answer)
    broken = ("association-request-broken", "association-rejected")
    wait_until(lambda: any(map(receiver.lines, broken)), "a log line", 5.0)
    assert sum(len(receiver.lines(event)) for event in broken) == 1
    assert not receiver.ends()


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ({"calling": b""}, (1, 1, 3)),
        ({"calling": bytes(16)}, (1, 1, 3)),
        ({"called": b"ELSEWHERE"}, (1, 1, 7)),
        ({"called": b"relaypacs"}, (1, 1, 7)),
        ({"called": b""}, (1, 1, 7)),
        ({"application": "1.2.3"}, (1, 1, 2)),
        ({"application": ""}, (1, 1, 2)),
        ({"version": 2}, (1, 2, 2)),
        ({"version": 0}, (1, 2, 2)),
        ({"more": item(0x58, b"\x01\x00\x00\x04user\x00\x00")}, (1, 1, 1)),
        ({"more": item(0x58, b"\x02\x01\x00\x04user\x00\x02pw")}, (1, 1, 1)),
    ],
)
def test_rejections(receiver: Receiver, what: dict[str, object], answer: tuple[int, int, int]) -> None:
    with Raw(receiver.port) as peer:
        peer.send(associate_rq(**what))  # type: ignore[arg-type]
        assert peer.read_pdu() == (RJ, bytes((0, *answer)))
    assert receiver.wait_line("association-rejected")["message"]
    assert len(receiver.lines("association-rejected")) == 1
    assert not receiver.ends()


def test_padded_titles_are_the_same(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        assert peer.associate(called=b"  RELAYPACS\0\0", calling=b" CT\0") == AC
        assert peer.store(b"data") == 0
    assert receiver.objects()[0].record.meta.calling_ae == "CT"


def test_hostile_titles_stay_in_one_log_line(receiver: Receiver) -> None:
    with Raw(receiver.port) as peer:
        peer.send(associate_rq(called=b'"}\n{"a":"b\x00%s\x1b'))
        assert peer.read_pdu()[0] == RJ
    (line,) = receiver.lines("association-rejected")
    assert line["reason"] == "called-ae"


@pytest.mark.parametrize("cut", [1, 5, 6, 50, 200, 5000, 30_000])
@pytest.mark.parametrize("how", ["close", "reset", "abort"])
def test_connection_cut_in_the_middle(receiver: Receiver, cut: int, how: str) -> None:
    message = pdu(DATA, pdv(1, COMMAND | LAST, store_rq()))
    message += b"".join(pdu(DATA, pdv(1, 0, bytes(16_000))) for _ in range(3))
    with Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(b"good") == 0
        if how == "abort":
            edge = len(pdu(DATA, pdv(1, COMMAND | LAST, store_rq())))
            whole = edge if cut < 5000 else edge + 16_012
            peer.send(message[:whole] + pdu(ABORT, bytes(4)))
        else:
            peer.send(message[:cut])
            if how == "reset":
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sock.close()
        (end,) = receiver.wait_ends(1)
    assert end["outcome"] == ("peer-aborted" if how == "abort" else "connection-lost")
    assert end["objects"] == 1
    assert [one.dataset for one in receiver.objects()] == [b"good"]


def test_connection_without_a_word_is_silent(receiver: Receiver) -> None:
    for _ in range(20):
        with Raw(receiver.port):
            pass
    assert receiver.wait_line("connection-closed", 20)["level"] == "DEBUG"
    assert {line["level"] for line in receiver.lines()} == {"DEBUG"}


def test_half_requests_are_closed_in_time(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", association_request_timeout_seconds=0.3) as receiver:
        peers = [Raw(receiver.port) for _ in range(20)]
        for peer in peers[::2]:
            peer.send(associate_rq()[:40])
        with Raw(receiver.port) as good:
            assert good.associate() == AC
            assert all(peer.is_closed() for peer in peers)
            assert good.store(b"data") == 0


def test_association_limit_is_transient(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", max_associations=2) as receiver, Raw(receiver.port) as one:
        assert one.associate() == AC
        with Raw(receiver.port) as two, Raw(receiver.port) as three:
            assert two.associate() == AC
            three.send(associate_rq())
            assert three.read_pdu() == (RJ, b"\0\x02\x03\x02")
            two.release()
        receiver.wait_ends(1)
        for _ in range(100):
            with Raw(receiver.port) as four:
                if four.associate() == AC:
                    break
        else:
            pytest.fail("no place was given free")


def test_object_over_the_limit_is_refused_and_the_next_taken(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", spool={"max_object_bytes": 1 << 20}) as receiver, Raw(receiver.port) as peer:
        peer.associate()
        assert peer.store(bytes((1 << 20) + 2)) == 0xA700
        assert peer.store(bytes(1 << 20)) == 0
        peer.release()
        (end,) = receiver.wait_ends(1)
        assert (end["objects"], end["bytes"]) == (1, 1 << 20)


def test_nobody_is_admitted_without_a_caller(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool", callers=()) as receiver, Raw(receiver.port) as peer:
        peer.send(associate_rq())
        assert peer.read_pdu() == (RJ, b"\0\x01\x01\x03")

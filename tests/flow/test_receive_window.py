"""The asynchronous operations window (PS3.7 D.3.3.3): what is granted, and a sender that does not wait for answers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.peers.raw import (
    AC,
    COMMAND,
    DATA,
    LAST,
    VERIFICATION,
    Raw,
    associate_rq,
    item,
    pdu,
    pdv,
    request,
    store_rq,
)
from tests.peers.receiver import Receiver


def window(invoked: int, performed: int) -> bytes:
    """The sub-item of an A-ASSOCIATE-RQ or -AC."""
    return item(0x53, struct.pack(">HH", invoked, performed))


def granted(peer: Raw, more: bytes) -> tuple[int, int] | None:
    """Associate; the window of the A-ASSOCIATE-AC, None if it says nothing (PS3.7 D.3.3.3.2: then 1, 1)."""
    peer.send(associate_rq(more=more))
    kind, body = peer.read_pdu()
    assert kind == AC
    place = body.find(b"\x53\x00\x00\x04")
    return struct.unpack_from(">HH", body, place + 4) if place >= 0 else None


@pytest.mark.parametrize(
    ("proposed", "answer"),
    [((8, 1), (4, 1)), ((3, 5), (3, 1)), ((0, 0), (4, 1)), ((65535, 1), (4, 1)), ((1, 1), None), (None, None)],
)
def test_never_more_is_granted_than_proposed_or_configured(
    tmp_path: Path, proposed: tuple[int, int] | None, answer: tuple[int, int] | None
) -> None:
    with Receiver(tmp_path / "spool", max_operations_invoked=4) as receiver, Raw(receiver.port) as peer:
        assert granted(peer, window(*proposed) if proposed else b"") == answer
        assert peer.store(b"whole", sop_instance="1.2.3") == 0
        peer.release()


def store(message_id: int, instance: str, dataset: bytes, **what: object) -> bytes:
    """A C-STORE-RQ and its dataset, in PDUs of 16 KB."""
    command = store_rq(message_id=message_id, sop_instance=instance, **what)  # type: ignore[arg-type]
    parts = [pdu(DATA, pdv(1, COMMAND | LAST, command))]
    for start in range(0, len(dataset) or 1, 16000):
        last = LAST if start + 16000 >= len(dataset) else 0
        parts.append(pdu(DATA, pdv(1, last, dataset[start : start + 16000])))
    return b"".join(parts)


def outcomes(peer: Raw, count: int) -> dict[int, int]:
    """Statuses by Message ID Being Responded To."""
    answers = [peer.read_command() for _ in range(count)]
    return {int.from_bytes(one[0x0120], "little"): int.from_bytes(one[0x0900], "little") for one in answers}


def test_requests_sent_ahead_are_served_each_by_its_own_outcome(tmp_path: Path) -> None:
    """Refused ones, an echo and large objects among them, all sent before the first answer is read."""
    spool = {"max_object_bytes": 1 << 20}
    datasets = {number: bytes((number,)) * (number * 30_000) for number in (1, 3, 5, 7, 9, 11)}
    stream = b"".join(
        [
            store(1, "1.2.1", datasets[1]),
            store(200, "1.2.no", b"not a UID" * 3000),
            store(3, "1.2.3", datasets[3]),
            store(4, "1.2.4", b""),
            store(5, "1.2.5", datasets[5]),
            pdu(DATA, pdv(3, COMMAND | LAST, request(0x0030, message_id=6, sop_class=VERIFICATION))),
            store(7, "1.2.7", datasets[7]),
            store(8, "1.2.8", bytes(1_200_000)),
            store(9, "1.2.9", datasets[9]),
            store(10, "1.2.10", b"another class" * 500, sop_class="1.2.840.10008.5.1.4.1.1.4"),
            store(11, "1.2.11", datasets[11]),
        ]
    )
    with Receiver(tmp_path / "spool", spool=spool) as receiver, Raw(receiver.port) as peer:
        assert granted(peer, window(0, 1)) == (16, 1)
        peer.send(stream)
        found = outcomes(peer, 11)
        peer.release()
        receiver.wait_ends(1)
        stored = {one.record.meta.sop_instance_uid: one.dataset for one in receiver.objects()}
    refused = {200: 0x0117, 4: 0xC000, 8: 0xA700, 10: 0x0122}
    assert found == dict.fromkeys((1, 3, 5, 6, 7, 9, 11), 0) | refused
    assert stored == {f"1.2.{number}": dataset for number, dataset in datasets.items()}


def test_what_was_answered_before_an_abort_counts_and_the_rest_does_not(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool") as receiver, Raw(receiver.port) as peer:
        granted(peer, window(8, 1))
        peer.send(
            store(1, "1.2.1", b"one" * 900) + store(2, "1.2.2", b"two" * 900) + store(3, "1.2.3", b"3" * 99)[:-40]
        )
        assert outcomes(peer, 2) == {1: 0, 2: 0}
        peer.sock.close()
        (end,) = receiver.wait_ends(1)
        assert end["objects"] == 2
        assert {one.record.meta.sop_instance_uid for one in receiver.objects()} == {"1.2.1", "1.2.2"}

"""Mutated streams at a live port: whatever comes, the process lives, nothing is left, and only whole objects stay."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.peers.ports import wait_until
from tests.peers.raw import AC, COMMAND, DATA, LAST, RELEASE_RQ, Raw, associate_rq, item, pdu, pdv, request, store_rq
from tests.peers.receiver import Receiver

SEED = 20240229
DATASET = bytes(range(256)) * 3


def conversation() -> list[bytes]:
    """The PDUs of a peer that uses everything."""
    command = store_rq()
    return [
        associate_rq(more=item(0x53, b"\0\x05\0\x05") + item(0x54, b"\0\x031.2\1\1") + item(0x55, b"VERSION")),
        pdu(DATA, pdv(1, COMMAND | LAST, command)),
        pdu(DATA, pdv(1, 0, DATASET[:300]) + pdv(1, LAST, DATASET[300:])),
        pdu(DATA, pdv(3, COMMAND | LAST, request(0x0030))),
        pdu(DATA, pdv(1, COMMAND, command[:40]) + pdv(1, COMMAND | LAST, command[40:]) + pdv(1, LAST, DATASET)),
        pdu(DATA, pdv(1, COMMAND | LAST, request(0x0020, dataset=True)) + pdv(1, LAST, b"identifier")),
        pdu(RELEASE_RQ, bytes(4)),
    ]


def mutate(rng: random.Random, pdus: list[bytes]) -> bytes:
    """One of the usual ways to break a stream."""
    pdus = list(pdus)
    first = rng.choice((0, 1, 1, 1))  # mostly leave the association request alone
    kind = rng.randrange(6)
    place = rng.randrange(first, len(pdus))
    if kind == 0:
        rng.shuffle(pdus)
    elif kind == 1:
        pdus.insert(place, rng.choice(pdus))
    elif kind == 2:
        del pdus[place]
    elif kind == 3:
        pdus[place] = pdus[place][: rng.randrange(len(pdus[place]))]
    elif kind == 4:
        pdus[place] = rng.randbytes(rng.randrange(200)) + pdus[place]
    else:
        for _ in range(rng.randrange(1, 6)):
            changed = bytearray(pdus[place])
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
            pdus[place] = bytes(changed)
    return b"".join(pdus)


def attack(port: int, seed: int, count: int) -> None:
    """`count` mutated conversations, each on a connection of its own."""
    rng = random.Random(seed)
    pdus = conversation()
    for _ in range(count):
        with Raw(port) as peer:
            try:
                stream = mutate(rng, pdus)
                for start in range(0, len(stream), size := rng.choice((1 << 20, 1 << 20, 100))):
                    peer.send(stream[start : start + size])
                if rng.random() < 0.5:
                    peer.sock.settimeout(0.05)
                    while peer.sock.recv(4096):
                        pass
            except OSError:
                pass


@pytest.mark.timeout(900)
def test_mutated_streams(tmp_path: Path, long_run: bool) -> None:
    count = 2_500 if long_run else 500
    limits = {"pdu_timeout_seconds": 2.0, "release_timeout_seconds": 0.5, "association_request_timeout_seconds": 1.0}
    with Receiver(tmp_path / "spool", max_associations=2000, **limits) as receiver:
        names = {"receiver", "association-log"}
        wait_until(lambda: names <= {one.name for one in threading.enumerate()}, "the receiver's own threads", 10.0)
        before = threading.active_count()
        attackers = [threading.Thread(target=attack, args=(receiver.port, SEED + n, count)) for n in range(4)]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
        with Raw(receiver.port) as peer:
            assert peer.associate() == AC
            assert peer.store(b"alive", sop_instance="1.9") == 0
            peer.release()
        wait_until(lambda: threading.active_count() <= before, "threads ended", 20.0)
        assert not receiver.lines("association-failed")
        ends = receiver.wait_ends(len(receiver.lines("association-ended")))  # they are gathered for a moment
        stored = receiver.objects()
        assert sum(int(end["objects"]) for end in ends) == len(stored)
        counted = {str(end["association_id"]): end["objects"] for end in ends}
        for association_id in {one.record.meta.association_id for one in stored}:
            mine = [one for one in stored if one.record.meta.association_id == association_id]
            assert counted[association_id] == len(mine)
        assert all(one.dataset for one in stored)

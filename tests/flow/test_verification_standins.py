"""Verification at peers that misbehave, played by stand-ins: what could not be asked never counts as missing, nor as
there; what is missing is sent again a bounded number of times; who hangs holds up nobody else."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relaypacs.config.model import Destination
from relaypacs.dicom.command import CommandSet, encode_response
from relaypacs.dicom.message import message_groups
from relaypacs.forward.listed import Listed
from relaypacs.model import State
from tests.flow.test_verification import SERIES, by_c_find, by_qido
from tests.unit.forward.deliveries import STUDY, element
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.house import House
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module

ASKED_FOR = f"{STUDY}.80.2.1"
WANTED = {SERIES: [ASKED_FOR]}
C_FIND_RQ = 0x0020
FIND_CONTEXT = b"1.2.840.10008.5.1.4.1.2.2.1"


def pending(peer: Connection, context_id: int, asked: CommandSet, identifier: bytes, status: int = 0xFF00) -> None:
    """A C-FIND-RSP with an identifier (PS3.7 9.3.2.2)."""
    without, having = (struct.pack("<HHIH", 0, 0x0800, 2, kind) for kind in (0x0101, 0x0001))
    command = encode_response(asked, status).replace(without, having)
    groups = message_groups(context_id, command, memoryview(identifier), 16384)
    peer.send(b"".join(b"".join(group) for group in groups))


def named(uid: str) -> bytes:
    return element(0x00080018, "UI", uid.encode()) + element(0x00080052, "CS", b"IMAGE")


Answer = Callable[[Connection, int, CommandSet], None]


def answers(*statuses: int, uids: tuple[str, ...] = ()) -> Answer:
    def answer(peer: Connection, context_id: int, asked: CommandSet) -> None:
        for uid in uids:
            pending(peer, context_id, asked, named(uid))
        for status in statuses:
            peer.send_message(context_id, encode_response(asked, status))

    return answer


def hangs(peer: Connection, context_id: int, asked: CommandSet) -> None:
    pending(peer, context_id, asked, named(ASKED_FOR))
    peer.file.read(1)


def aborts(peer: Connection, context_id: int, asked: CommandSet) -> None:
    pending(peer, context_id, asked, named(ASKED_FOR))
    peer.abort()


def closes(peer: Connection, context_id: int, asked: CommandSet) -> None:
    peer.socket.shutdown(socket.SHUT_RDWR)


def another_message(peer: Connection, context_id: int, asked: CommandSet) -> None:
    wrong = encode_response(asked, 0)
    ours = struct.pack("<HHIH", 0, 0x0120, 2, asked.message_id or 0)
    peer.send_message(context_id, wrong.replace(ours, struct.pack("<HHIH", 0, 0x0120, 2, 999)))
    peer.file.read(1)


def nobody(peer: Connection, context_id: int, asked: CommandSet) -> None:
    pending(peer, context_id, asked, element(0x00080052, "CS", b"IMAGE"))
    peer.send_message(context_id, encode_response(asked, 0))


def garbage(peer: Connection, context_id: int, asked: CommandSet) -> None:
    pending(peer, context_id, asked, b"\xff" * 1000)
    peer.send_message(context_id, encode_response(asked, 0))


def too_long(peer: Connection, context_id: int, asked: CommandSet) -> None:
    pending(peer, context_id, asked, named(ASKED_FOR) + b"\0" * (1 << 20))
    peer.file.read(1)


def serves(answer: Answer) -> Callable[[Connection], None]:
    """Accept anything, take objects with Success, answer questions so."""

    def serve(peer: Connection) -> None:
        peer.accept()
        while True:
            context_id, command, _ = peer.read_object()
            if command is None:
                return
            if command.field == C_FIND_RQ:
                answer(peer, context_id, command)
            else:
                peer.send_message(context_id, encode_response(command, 0))

    return serve


def rejects(peer: Connection) -> None:
    peer.read_pdu()
    peer.send(struct.pack(">BxIxBBB", 3, 4, 1, 1, 3))


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        (serves(answers(0xA700)), "status A700"),
        (serves(answers(0xC001, uids=(ASKED_FOR,))), "status C001"),
        (serves(answers(0xFE00)), "status FE00"),
        (serves(hangs), "was silent"),
        (serves(aborts), "aborted the association"),
        (serves(closes), "closed the association"),
        (serves(another_message), "broke the DICOM protocol"),
        (serves(nobody), "without SOP Instance UIDs"),
        (serves(garbage), "without SOP Instance UIDs"),
        (serves(too_long), "broke the DICOM protocol"),
        (rejects, "does not know our calling AE title"),
        (lambda peer: peer.file.read(1 << 20) and None, "did not answer the association request"),
    ],
)
def test_a_c_find_without_a_proper_end_says_nothing(serve: Callable[[Connection], None], says: str) -> None:
    with DimsePeer(serve) as peer:
        wait = 0.5 if says in ("was silent", "did not answer the association request") else 5.0
        ask = by_c_find(peer.port, connect_timeout_seconds=wait, response_timeout_seconds=wait)
        started = time.monotonic()
        listed = ask(f"{STUDY}.80", WANTED, False)
        assert time.monotonic() - started < 4
    assert says in listed.trouble
    assert not listed.uids


def test_answers_without_end_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_end(peer: Connection, context_id: int, asked: CommandSet) -> None:
        number = 0
        while True:
            number += 1
            pending(peer, context_id, asked, named(f"1.2.{number}"))

    monkeypatch.setattr("relaypacs.forward.find.MOST_LISTED", 500)
    with DimsePeer(serves(without_end)) as peer:
        listed = by_c_find(peer.port)(f"{STUDY}.80", WANTED, False)
    assert "without end" in listed.trouble


def instances(*uids: str) -> bytes:
    return json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(401), "does not let us search (401"),
        (Reply(403), "does not let us search (403"),
        (Reply(404), "has no QIDO-RS service"),
        (Reply(429), "searched again later"),
        (Reply(500), "HTTP 500"),
        (Reply(307, headers={"Location": "http://169.254.169.254/"}), "never followed"),
        (Reply(200, b"<html>"), "no list"),
        (Reply(200, b"{}"), "no list"),
        (Reply(200, b"[[]]"), "no list"),
        (Reply(200, b'[{"0020000D": {"vr": "UI", "Value": ["1.2"]}}]'), "no list"),
        (Reply(200, instances(ASKED_FOR)[:-3]), "no list"),
        (Reply(200, b"[" * 100_000), "no list"),
        (Reply(200, b"[" + b" " * (17 << 20)), "no list"),
        (Reply(200, cut=True), "broke the exchange off"),
    ],
)
def test_a_search_without_a_proper_answer_says_nothing(reply: Reply, says: str) -> None:
    with WebPeer(lambda _: reply) as peer:
        listed = by_qido(peer.url)(f"{STUDY}.80", WANTED, False)
    assert says in listed.trouble
    assert not listed.uids


def test_a_peer_that_calls_a_study_it_lacks_404_lacks_it() -> None:
    """As long as it answers searches otherwise; and pages come as small as the peer likes."""
    there = [f"{STUDY}.80.2.{number}" for number in range(7)]

    def answer(request: Request) -> Reply:
        if request.path.startswith("/rs/studies?"):
            return Reply(204)
        if f"/studies/{STUDY}.80/" not in request.path:
            return Reply(404)
        offset = int(request.path.partition("offset=")[2] or 0)
        return Reply(200, instances(*there[offset : offset + 3])) if there[offset:] else Reply(204)

    with WebPeer(answer) as peer:
        ask = by_qido(peer.url)
        assert ask(f"{STUDY}.81", WANTED, False) == Listed()
        assert ask(f"{STUDY}.80", {SERIES: [*there, "1.2.3"]}, False) == Listed(frozenset(there))
        count = len(peer.requests)
        assert ask(f"{STUDY}.80", {SERIES: there[:3]}, False) == Listed(frozenset(there[:3]))
        assert len(peer.requests) == count + 1


def test_a_peer_that_knows_no_pages_is_not_asked_for_ever() -> None:
    with WebPeer(lambda _: Reply(200, instances("1.2.3", "1.2.4"))) as peer:
        listed = by_qido(peer.url)(f"{STUDY}.80", WANTED, False)
        assert listed == Listed(frozenset({"1.2.3", "1.2.4"}))
        assert len(peer.requests) == 2


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def destination(name: str, port: int, **settings: Any) -> Destination:
    values = {
        "connect_timeout_seconds": 2.0,
        "response_timeout_seconds": 5.0,
        "verify": "c-find",
        "verify_after_seconds": 0.3,
        "retry": "9x1s",
        **settings,
    }
    return Destination(name=name, kind="dimse", host="127.0.0.1", port=port, called_ae="ANY", **values)


class Forgetful:
    """A peer that says Success and keeps nothing, and counts."""

    def __init__(self, listed: Callable[[], tuple[str, ...]] = lambda: ()) -> None:
        self.stored = 0
        self.asked = threading.Event()
        self._listed = listed

    def __call__(self, peer: Connection) -> None:
        peer.accept()
        while True:
            context_id, command, _ = peer.read_object()
            if command is None:
                return
            if command.field == C_FIND_RQ:
                self.asked.set()
                answers(0x0000, uids=self._listed())(peer, context_id, command)
            else:
                self.stored += 1
                peer.send_message(context_id, encode_response(command, 0))


def rows(house: House) -> dict[str, Any]:
    return {one.destination: one for one in house.jobs.destinations.verifications.of_study(STUDY)}


def test_success_that_is_a_lie_is_found_out_and_ends(house: House) -> None:
    uids = house.receive(4, series=True)
    peer = Forgetful(lambda: tuple(uids[:3]))
    with DimsePeer(peer) as there:
        forwarder = house.forwarder([destination("there", there.port, verify_rounds=2)])
        forwarder.start()
        house.wait_states({State.DELIVERED: 6, State.FAILED: 1}, seconds=20)
        assert forwarder.stop(5)
    assert peer.stored == 6, "what is there is not sent again, what is not is, twice"
    (dead,) = [one for one in house.deliveries() if one.state is State.FAILED]
    assert "does not have it" in dead.reason
    assert rows(house)["there"].due_at is None
    assert house.jobs.ledger().imbalance == 0


def test_a_round_is_not_over_before_what_was_sent_again_is_there(house: House) -> None:
    """What is put off there does not begin the count anew when it arrives at last."""
    uids = house.receive(2, series=True)
    statuses = iter([0, 0, 0x0110])

    def serve(peer: Connection) -> None:
        peer.accept()
        while True:
            context_id, command, _ = peer.read_object()
            if command is None:
                return
            if command.field == C_FIND_RQ:
                answers(0x0000, uids=(uids[0],))(peer, context_id, command)
            else:
                peer.send_message(context_id, encode_response(command, next(statuses, 0)))

    with DimsePeer(serve) as there:
        forwarder = house.forwarder([destination("there", there.port, verify_rounds=1)])
        forwarder.start()
        house.wait_states({State.DELIVERED: 3, State.FAILED: 1}, seconds=20)
        time.sleep(1.0)
        assert forwarder.stop(5)
    assert house.states() == {State.DELIVERED: 3, State.FAILED: 1}


def test_what_can_not_be_asked_is_asked_later_and_nothing_is_sent_for_that(house: House) -> None:
    house.receive(3, series=True)
    may = threading.Event()

    def answer(peer: Connection, context_id: int, asked: CommandSet) -> None:
        if may.is_set():
            answers(0x0000, uids=tuple(one.sop_instance_uid for one in house.jobs.trace(STUDY)))(
                peer, context_id, asked
            )
        else:
            answers(0xA700)(peer, context_id, asked)

    with DimsePeer(serves(answer)) as there:
        forwarder = house.forwarder([destination("there", there.port)])
        forwarder.start()
        house.wait_states({State.DELIVERED: 3})
        wait(lambda: rows(house)["there"].tries >= 2)
        assert "status A700" in rows(house)["there"].reason
        assert house.states() == {State.DELIVERED: 3}
        may.set()
        wait(lambda: rows(house)["there"].due_at is None)
        assert (rows(house)["there"].found, rows(house)["there"].reason) == (3, "")
        assert forwarder.stop(5)
    assert house.states() == {State.DELIVERED: 3}


def test_one_that_hangs_holds_up_neither_its_neighbour_nor_its_own_deliveries(house: House) -> None:
    with DimsePeer(serves(hangs)) as slow, DimsePeer(Forgetful(lambda: tuple(uids))) as quick:
        forwarder = house.forwarder(
            [
                destination("slow", slow.port, response_timeout_seconds=20.0),
                destination("quick", quick.port),
            ]
        )
        forwarder.start()
        uids = house.receive(3, to=("slow", "quick"), series=True)
        house.wait_states({State.DELIVERED: 6})
        wait(lambda: rows(house)["quick"].found == 3)
        assert rows(house)["slow"].checked_at is None
        uids += house.receive(2, to=("slow", "quick"), series=True)
        house.wait_states({State.DELIVERED: 10})
        wait(lambda: rows(house)["quick"].due_at is None)
        started = time.monotonic()
        assert forwarder.stop(5)
        assert time.monotonic() - started < 5


def test_one_that_is_down_is_not_asked(house: House) -> None:
    """It is asked when it is up again: no try is counted, nothing is sent again."""
    down = threading.Event()
    forgetful = Forgetful(lambda: tuple(uids[:2]))

    def serve(peer: Connection) -> None:
        if not down.is_set():
            forgetful(peer)

    with DimsePeer(serve) as there:
        forwarder = house.forwarder([destination("there", there.port, verify_after_seconds=1.5, idle_seconds=0.2)])
        forwarder.start()
        uids = house.receive(2, series=True)
        house.wait_states({State.DELIVERED: 2})
        time.sleep(0.5)  # its association is released
        down.set()
        house.receive(1, series=True)
        wait(lambda: house.states().get(State.DEFERRED, 0) == 1)
        time.sleep(2.5)
        assert not forgetful.asked.is_set()
        assert rows(house)["there"].tries == 0
        down.clear()
        wait(forgetful.asked.is_set, seconds=30)
        assert forwarder.stop(5)


def test_what_is_no_uid_is_not_asked_for(house: House) -> None:
    """It might be a wildcard, and match what is not meant."""
    forgetful = Forgetful()
    with DimsePeer(forgetful) as there:
        forwarder = house.forwarder([destination("there", there.port)])
        forwarder.start()
        house.receive(2)  # without Series Instance UID
        house.wait_states({State.DELIVERED: 2})
        wait(lambda: rows(house)["there"].due_at is None)
        assert forwarder.stop(5)
    assert not forgetful.asked.is_set()
    assert "2 can't be asked for" in rows(house)["there"].reason
    assert (rows(house)["there"].found, rows(house)["there"].expected) == (0, 2)


def test_a_destination_that_stores_by_stow_is_searched(house: House) -> None:
    stored: dict[str, int] = {}

    def answer(request: Request) -> Reply:
        if request.files:
            for uid in request.uids:
                stored[uid] = stored.get(uid, 0) + 1
            return Reply(200, module(request.uids))
        there = [uid for uid, count in stored.items() if count > 1 or not uid.endswith("2")]
        return Reply(200, instances(*there)) if "offset" not in request.path else Reply(204)

    with WebPeer(answer) as peer:
        one = Destination(name="there", kind="dicomweb", url=peer.url, verify="qido", verify_after_seconds=0.3)
        forwarder = house.forwarder([one])
        forwarder.start()
        house.receive(4, series=True)
        house.wait_states({State.DELIVERED: 5})
        wait(lambda: rows(house)["there"].due_at is None)
        assert forwarder.stop(5)
    assert sorted(stored.values()) == [1, 1, 1, 2]
    assert rows(house)["there"].found == 4


def wait(condition: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)

"""Bad peers beside a good one, over the real spool and job table: how each delivery stands, in bounded time, and that
the neighbour has everything as if it were alone. The bad ones are stand-ins; `docs/forwarding.md` has the table."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.model import State
from tests.peers.stock import StockScp
from tests.unit.forward.deliveries import STUDY
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.house import House
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module

OBJECTS = 8
DELIVERED, FAILED, DEFERRED, QUEUED = State.DELIVERED, State.FAILED, State.DEFERRED, State.QUEUED
Serve = Callable[[Connection], None]
NEVER = {DEFERRED: 1, QUEUED: OBJECTS - 1}
"""One attempt was counted, and nothing else was tried."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def rejects(result: int, source: int, reason: int) -> Serve:
    def serve(peer: Connection) -> None:
        peer.read_pdu()
        peer.send(struct.pack(">BxIxBBB", 3, 4, result, source, reason))
        peer.read_pdu()

    return serve


def answers(*statuses: int) -> Serve:
    """Each in turn, over all of its life."""
    given: list[int] = []

    def serve(peer: Connection) -> None:
        peer.accept()
        while peer.store(statuses[len(given) % len(statuses)]):
            given.append(0)

    return serve


def aborts_instead_of_accepting(peer: Connection) -> None:
    peer.read_pdu()
    peer.abort()


def aborts_when_an_object_begins(peer: Connection) -> None:
    peer.accept()
    peer.read_pdu()
    peer.abort()


def aborts_after_the_object(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.abort()


def aborts_between_objects(peer: Connection) -> None:
    peer.accept()
    peer.store()
    peer.abort()


def resets_after_success(peer: Connection) -> None:
    peer.accept()
    peer.store()
    time.sleep(0.05)  # so that the answer is read before the reset overtakes it
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.file.close()
    peer.socket.close()


def hangs_before_accepting(peer: Connection) -> None:
    peer.read_pdu()
    peer.file.read(1)


def hangs_in_an_object(peer: Connection) -> None:
    peer.accept()
    peer.file.read(500)
    time.sleep(5)


def hangs_before_the_answer(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.file.read(1)


def half_an_answer(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(b"\x04\x00\x00\x00\x00\x40\x00\x00")
    peer.file.read(1)


DIMSE: dict[str, tuple[Serve, dict[State, int]]] = {
    "rejects for good": (rejects(1, 1, 1), NEVER),
    "rejects our title": (rejects(1, 1, 3), NEVER),
    "rejects for now": (rejects(2, 3, 2), NEVER),
    "aborts instead of accepting": (aborts_instead_of_accepting, NEVER),
    "aborts when an object begins": (aborts_when_an_object_begins, NEVER),
    "aborts after the object": (aborts_after_the_object, NEVER),
    "aborts between objects": (aborts_between_objects, {DELIVERED: OBJECTS}),
    "resets after Success": (resets_after_success, {DELIVERED: OBJECTS}),
    "hangs before accepting": (hangs_before_accepting, NEVER),
    "hangs in an object": (hangs_in_an_object, NEVER),
    "hangs before the answer": (hangs_before_the_answer, NEVER),
    "half an answer": (half_an_answer, NEVER),
    "half refused": (answers(0x0000, 0xC001), {DELIVERED: OBJECTS // 2, FAILED: OBJECTS // 2}),
    "has it already": (answers(0x0111), {DELIVERED: OBJECTS}),
    "warns": (answers(0xB007), {DELIVERED: OBJECTS}),
    "unknown status": (answers(0x4711), {DEFERRED: OBJECTS}),
    "Pending": (answers(0xFF00), {DEFERRED: OBJECTS}),
}


@pytest.mark.parametrize("case", DIMSE)
def test_a_bad_dimse_peer(house: House, case: str) -> None:
    serve, states = DIMSE[case]
    with DimsePeer(serve) as peer:
        bad = Destination(
            name="bad",
            kind="dimse",
            host="127.0.0.1",
            port=peer.port,
            called_ae="BAD",
            connect_timeout_seconds=0.5,
            response_timeout_seconds=0.5,
            retry="9x1h",
        )
        beside(house, bad, states)


def lies(request: Request) -> Reply:
    return Reply(200, module(["1.2.3.4.5"]))


def one_of_them_is_bad(request: Request) -> Reply:
    """400, with the good ones stored and listed."""
    good = [uid for uid in request.uids if not uid.endswith(".3")]
    return Reply(400, module(good, {uid: 0xC000 for uid in request.uids if uid not in good}))


WEB: dict[str, tuple[Callable[[Request], Reply], dict[State, int]]] = {
    "200 with empty sequences": (lambda _: Reply(200, module()), {DEFERRED: OBJECTS}),
    "400 with the good ones stored": (one_of_them_is_bad, {DELIVERED: OBJECTS - 1, FAILED: 1}),
    "names a UID nobody sent": (lies, {FAILED: OBJECTS}),
    "truncated JSON": (lambda request: Reply(200, module(request.uids)[:-20]), {DEFERRED: OBJECTS}),
    "a body without end": (lambda request: Reply(200, module(request.uids) + b" " * (4 << 20)), {DEFERRED: OBJECTS}),
    "cuts the connection": (lambda _: Reply(200, cut=True), {DEFERRED: OBJECTS}),
    "409 with reasons": (lambda r: Reply(409, module([], dict.fromkeys(r.uids, 43264))), {FAILED: OBJECTS}),
    "409, all there already": (lambda r: Reply(409, module([], dict.fromkeys(r.uids, 45070))), {DELIVERED: OBJECTS}),
    "401": (lambda _: Reply(401), {DEFERRED: OBJECTS}),
    "404": (lambda _: Reply(404), {DEFERRED: OBJECTS}),
    "413": (lambda r: Reply(413 if r.files else 503), {DEFERRED: 3, QUEUED: OBJECTS - 3}),
    "415": (lambda r: Reply(415 if r.files else 503), {DEFERRED: 3, QUEUED: OBJECTS - 3}),
    "429": (lambda _: Reply(429, headers={"Retry-After": "60"}), {DEFERRED: OBJECTS}),
    "503": (lambda _: Reply(503), {DEFERRED: OBJECTS}),
    "redirects": (lambda _: Reply(307, headers={"Location": "http://169.254.169.254/"}), {DEFERRED: OBJECTS}),
}


@pytest.mark.parametrize("case", WEB)
def test_a_bad_dicomweb_peer(house: House, case: str) -> None:
    answer, states = WEB[case]
    with WebPeer(answer) as peer:
        bad = Destination(
            name="bad",
            kind="dicomweb",
            url=peer.url,
            connect_timeout_seconds=0.5,
            response_timeout_seconds=5,
            associations=1,
            retry="9x1h",
        )
        beside(house, bad, states)


def beside(house: House, bad: Destination, states: dict[State, int]) -> None:
    """Deliver to it and to a good neighbour; how the bad one's deliveries stand, within seconds."""
    with StockScp() as neighbour:
        good = Destination(name="good", kind="dimse", host="127.0.0.1", port=neighbour.port, called_ae="GOOD")
        house.receive(OBJECTS, to=("bad", "good"))
        forwarder = house.forwarder([bad, good])
        started = time.monotonic()
        forwarder.start()
        expected = dict(states)
        expected[DELIVERED] = expected.get(DELIVERED, 0) + OBJECTS
        house.wait_states(expected, seconds=12, study=STUDY)
        took = time.monotonic() - started
        assert len(neighbour.stored) == OBJECTS
        assert forwarder.stop(8)
        tried = [one for one in house.deliveries() if one.destination == "good"]
        assert {one.attempts for one in tried} == {1}
        assert took < 12

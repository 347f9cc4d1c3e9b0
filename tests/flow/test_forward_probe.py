"""How a paused destination is asked: whoever answers in any way is tried with an instance, so that none stays shut out
that could be sent to; who does not answer, or asks for time, is left alone. The odd ones are stand-ins."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.dicom.command import C_ECHO_RQ, encode_response
from relaypacs.forward.echo import Echo, echo
from relaypacs.forward.memory import Memory
from relaypacs.model import State
from tests.flow.test_forward_dispatch import dimse, web
from tests.unit.forward.deliveries import CT, EXPLICIT, MR
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.house import House
from tests.unit.forward.webpeer import Reply, Request, WebPeer, module

REJECTION = struct.Struct(">BxIxBBB")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def ask(destination: Destination, known: tuple[tuple[str, str], ...] = ()) -> Echo:
    return echo(destination, calling_ae="RELAYPACS", environment={}, known=known)


class Strange:
    """Takes objects from CT1 alone, rejects whoever else calls; `away` closes every connection."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.stored = 0
        self.away = threading.Event()

    def __call__(self, peer: Connection) -> None:
        if self.away.is_set():
            return
        # Looked at before it is read: `accept` reads it whole.
        title = peer.socket.recv(58, 0x02)[26:42].decode().strip()
        self.callers.append(title)
        if title != "CT1":
            peer.read_pdu()
            peer.send(REJECTION.pack(3, 4, 1, 1, 3))
            return
        peer.accept()
        while peer.store():
            self.stored += 1


def test_one_that_knows_only_the_senders_is_up_again_after_trouble(house: House) -> None:
    """`calling_ae = "original"`: we are a stranger to it ourselves, and it must not be shut out for that."""
    strange = Strange()
    strange.away.set()
    with DimsePeer(strange) as peer:
        one = dimse(peer.port, calling_ae="original", retry="99x1s", associations=1)
        forwarder = house.forwarder([one])
        forwarder.start()
        house.receive(3)
        house.wait_states({State.DEFERRED: 1, State.QUEUED: 2})
        strange.away.clear()
        house.wait_states({State.DELIVERED: 3}, seconds=20)
        assert forwarder.stop(5)
        assert "original" not in strange.callers
        assert "RELAYPACS" in strange.callers, "the probe has no other title"
    assert strange.stored == 3
    with DimsePeer(strange) as peer:
        assert not ask(dimse(peer.port)).answers, "without `original` it is right that we are refused"


def refuses_echo(status: int) -> Callable[[Connection], None]:
    def serve(peer: Connection) -> None:
        peer.accept()
        context_id, command, _ = peer.read_object()
        assert command is not None
        assert command.field == C_ECHO_RQ
        peer.send_message(context_id, encode_response(command, status))
        peer.read_pdu()

    return serve


@pytest.mark.parametrize("status", [0x0122, 0x0211, 0x0124])
def test_one_that_refuses_the_c_echo_answers(status: int) -> None:
    with DimsePeer(refuses_echo(status)) as peer:
        found = ask(dimse(peer.port))
    assert (found.ok, found.answers) == (False, True)
    assert f"{status:04X}" in found.sentence


def test_what_it_takes_is_proposed_beside_verification() -> None:
    """Some reject an association in which they take nothing."""
    proposed: list[bytes] = []

    def serve(peer: Connection) -> None:
        head = peer.socket.recv(4096, 0x02)
        proposed.append(head)
        if CT.encode() not in head:
            peer.read_pdu()
            peer.send(REJECTION.pack(3, 4, 1, 1, 1))
            return
        peer.accept()
        peer.read_object()

    with DimsePeer(serve) as peer:
        one = dimse(peer.port, response_timeout_seconds=0.5)
        assert not ask(one).answers
        assert ask(one, ((CT, EXPLICIT), (MR, EXPLICIT))).sentence != ask(one).sentence
    assert MR.encode() in proposed[1]


def test_one_that_lets_us_store_and_not_search_is_up_again(house: House) -> None:
    """403 or 501 to the search; an empty request tells."""
    down = threading.Event()
    down.set()

    def answer(request: Request) -> Reply:
        if down.is_set():
            return Reply(503)
        if "Content-Type" not in request.headers:
            return Reply(403)
        return Reply(200, module(request.uids)) if request.files else Reply(400)

    with WebPeer(answer) as peer:
        forwarder = house.forwarder([web(peer.url, retry="99x1s", associations=1)])
        forwarder.start()
        house.receive(3)
        house.wait_states({State.DEFERRED: 3})
        down.clear()
        house.wait_states({State.DELIVERED: 3}, seconds=20)
        assert forwarder.stop(5)
    assert [len(request.uids) for request in peer.requests].count(0) >= 2


@pytest.mark.parametrize(
    ("search", "store", "answers"),
    [(403, 400, True), (501, 409, True), (403, 403, False), (403, 401, False), (501, 404, False), (403, 503, False)],
)
def test_what_an_empty_request_tells(search: int, store: int, answers: bool) -> None:
    with WebPeer(lambda request: Reply(store if "Content-Type" in request.headers else search)) as peer:
        found = ask(web(peer.url))
    assert (found.ok, found.answers, found.status) == (False, answers, search)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("17", 17, 17),
        ("999999999999", 3600, 3600),
        (formatdate(time.time() + 3000, usegmt=True), 60, 3001),
        (formatdate(time.time() - 120, usegmt=True), 0, 0),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("Fri, 99 Foo 2099 99:99:99 GMT", 0, 0),
    ],
    ids=["seconds", "too long", "a date", "a date gone by", "a word", "negative", "no date"],
)
def test_one_that_asks_for_time_gets_it_from_the_probe_too(value: str, least: float, most: float) -> None:
    with WebPeer(lambda _: Reply(429, headers={"Retry-After": value})) as peer:
        found = ask(web(peer.url))
    assert (found.ok, found.answers) == (False, False)
    assert least <= found.retry_after_seconds <= most


def test_a_kind_that_is_stored_is_not_remembered_as_refused() -> None:
    told: list[int] = []
    memory = Memory(on_change=lambda: told.append(1))
    memory.refused_by_status((CT, EXPLICIT))
    memory.stored((MR, EXPLICIT))
    assert memory.refused() == {(CT, EXPLICIT)}
    memory.stored((CT, EXPLICIT))
    assert memory.refused() == frozenset()
    assert len(told) == 2

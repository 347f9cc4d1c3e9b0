"""The asynchronous operations window as requestor (PS3.7 D.3.3.3): several objects under way, each settled by its own
answer; and the calling AE title of who sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relaypacs.config.model import Destination
from relaypacs.dicom.command import CommandSet, encode_response
from relaypacs.forward.cstore import CStoreSender
from relaypacs.model import Deferred, Delivered, Failed, Outcome, Scope, State
from tests.flow.test_forward_cstore import sender_to
from tests.peers.receiver import Receiver
from tests.peers.stock import StockScp
from tests.unit.forward.deliveries import STUDY, Deliveries, dataset
from tests.unit.forward.dimsepeer import Connection, DimsePeer
from tests.unit.forward.house import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def deliver(sender: CStoreSender, count: int, crc_wrong: int = -1) -> tuple[list[Outcome], str]:
    """Deliver `count` instances; the outcomes in order, and the trouble's reason."""
    deliveries = Deliveries()
    for number in range(count):
        uid = f"{STUDY}.90.{number}"
        deliveries.add(dataset(uid, pixels=30_000), uid=uid, crc32c=1 if number == crc_wrong else None)
    trouble = deliveries.deliver(sender)
    sender.close()
    outcomes = (deliveries.outcome(claim) for claim in deliveries.claims)
    return [one for one in outcomes if one is not None], trouble.reason if trouble else ""


class Pipe:
    """A peer that grants a window of 4, takes 4 objects before it answers any, and answers the last first."""

    def __init__(self, statuses: dict[int, int] | None = None) -> None:
        self.statuses = statuses or {}
        self.most = 0

    def __call__(self, peer: Connection) -> None:
        peer.accept(operations=4)
        number = 0
        while True:
            some: list[tuple[int, CommandSet, int]] = []
            while len(some) < 4 and number < 12:
                context_id, command, _ = peer.read_object()
                if command is None:
                    return
                some.append((context_id, command, self.statuses.get(number, 0)))
                number += 1
            if not some:
                peer.read_pdu()
                return
            self.most = max(self.most, len(some))
            for context_id, command, status in reversed(some):
                peer.send_message(context_id, encode_response(command, status))


def test_each_is_settled_by_its_own_answer_in_whatever_order_they_come() -> None:
    pipe = Pipe({1: 0xB007, 5: 0xC001, 6: 0x0111})
    with DimsePeer(pipe) as peer:
        outcomes, reason = deliver(sender_to(peer.port, "STANDIN", max_operations=8), 12)
    assert reason == ""
    assert pipe.most == 4
    assert outcomes[1] == Delivered(0xB007, warning=True)
    assert isinstance(outcomes[5], Failed)
    assert outcomes[6] == Delivered(0x0111)
    assert [one for number, one in enumerate(outcomes) if number not in (1, 5, 6)] == [Delivered(0)] * 9


def test_what_was_under_way_when_it_hung_is_deferred_and_nothing_else() -> None:
    def serve(peer: Connection) -> None:
        peer.accept(operations=3)
        for _ in range(2):
            context_id, command, _ = peer.read_object()
            assert command is not None
            peer.send_message(context_id, encode_response(command, 0))
        while peer.read_pdu()[0]:
            pass

    with DimsePeer(serve) as peer:
        outcomes, reason = deliver(sender_to(peer.port, "STANDIN", max_operations=8, response_timeout_seconds=0.5), 9)
    assert outcomes[:2] == [Delivered(0)] * 2
    assert outcomes[2:] == [Deferred(reason, Scope.SITE)] * 3


def test_an_answer_to_a_message_that_was_answered_already_is_a_lie() -> None:
    def serve(peer: Connection) -> None:
        peer.accept(operations=2)
        context_id, command, _ = peer.read_object()
        assert command is not None
        peer.send_message(context_id, encode_response(command, 0))
        peer.send_message(context_id, encode_response(command, 0))
        while peer.read_pdu()[0]:
            pass

    with DimsePeer(serve) as peer:
        outcomes, reason = deliver(sender_to(peer.port, "STANDIN", max_operations=8), 4)
    assert "broke the DICOM protocol" in reason
    assert outcomes == [Delivered(0), *[Deferred(reason, Scope.SITE)] * 2]


def test_corrupt_bytes_amid_others_cost_the_others_nothing() -> None:
    with DimsePeer(lambda peer: serve_all(peer, 4)) as peer:
        outcomes, reason = deliver(sender_to(peer.port, "STANDIN", max_operations=8), 6, crc_wrong=3)
    assert reason == ""
    assert isinstance(outcomes[3], Failed)
    assert [one for number, one in enumerate(outcomes) if number != 3] == [Delivered(0)] * 5


def serve_all(peer: Connection, operations: int | None) -> None:
    """Answer each object at once."""
    peer.accept(operations=operations)
    while peer.store():
        pass


@pytest.mark.parametrize("granted", [0, 1, None])
def test_any_number_one_and_no_answer(granted: int | None) -> None:
    with DimsePeer(lambda peer: serve_all(peer, granted)) as peer:
        sender = sender_to(peer.port, "STANDIN", max_operations=8)
        sender._lane.open([("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")])
        assert sender._lane.window == (8 if granted == 0 else 1)
        assert deliver(sender, 5) == ([Delivered(0)] * 5, "")


def test_another_node_of_ours_grants_a_window(tmp_path: Path) -> None:
    with Receiver(tmp_path / "spool") as receiver:
        sender = sender_to(receiver.port, "RELAYPACS", max_operations=8)
        assert deliver(sender, 20) == ([Delivered(0)] * 20, "")
    assert len(receiver.objects()) == 20


def test_the_calling_ae_title_of_who_sent_is_presented_where_so_configured(house: House) -> None:
    house.receive(3)
    with StockScp() as peer:
        one = Destination(
            name="there", kind="dimse", host="127.0.0.1", port=peer.port, called_ae="ANY", calling_ae="original"
        )
        forwarder = house.forwarder([one])
        forwarder.start()
        house.wait_states({State.DELIVERED: 3})
        assert forwarder.stop(5)
        assert {one.calling_ae for one in peer.stored} == {"CT1"}

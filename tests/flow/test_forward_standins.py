"""C-STORE forwarding to peers that misbehave, played by a stand-in: every case is the destination's trouble."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from relaypacs.dicom.command import C_ECHO_RQ, encode_echo_request, encode_response
from relaypacs.forward.cstore import CStoreSender
from relaypacs.model import Deferred, Delivered, Failed, Scope
from tests.flow.test_forward_cstore import sender_to
from tests.unit.forward.deliveries import STUDY, Deliveries, dataset
from tests.unit.forward.dimsepeer import Connection, DimsePeer

Serve = Callable[[Connection], None]


def deliver(sender: CStoreSender, count: int = 3, pixels: int = 300_000) -> tuple[Deliveries, str]:
    """Deliver `count` instances; the trouble's reason, or nothing."""
    deliveries = Deliveries()
    for number in range(count):
        uid = f"{STUDY}.70.{number}"
        deliveries.add(dataset(uid, pixels=pixels), uid=uid)
    trouble = deliveries.deliver(sender)
    return deliveries, trouble.reason if trouble else ""


def hangs_before_the_answer(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.read_pdu()


def hangs_in_the_middle(peer: Connection) -> None:
    peer.accept()
    peer.file.read(10_000)
    time.sleep(3)


def hangs_before_accepting(peer: Connection) -> None:
    peer.read_pdu()
    peer.read_pdu()


def closes_at_once(peer: Connection) -> None:
    return


def closes_in_the_middle(peer: Connection) -> None:
    peer.accept()
    peer.file.read(10_000)


def aborts_in_the_middle(peer: Connection) -> None:
    peer.accept()
    peer.read_pdu()
    peer.read_pdu()
    peer.abort()


def answers_nonsense(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.read_pdu()


def talks_http(peer: Connection) -> None:
    peer.file.read(10)
    peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def lies_about_lengths(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(struct.pack(">BxIIBB", 4, 0xFFFFFFFF, 0xFFFFFFF0, 1, 3))
    peer.read_pdu()


def answers_another_message(peer: Connection) -> None:
    peer.accept()
    context_id, command, _ = peer.read_object()
    assert command is not None
    assert command.message_id is not None
    wrong = encode_response(command, 0).replace(
        struct.pack("<HHIH", 0, 0x0120, 2, command.message_id), struct.pack("<HHIH", 0, 0x0120, 2, 999)
    )
    peer.send_message(context_id, wrong)
    peer.read_pdu()


def answers_with_a_request(peer: Connection) -> None:
    peer.accept()
    context_id, _, _ = peer.read_object()
    peer.send_message(context_id, encode_echo_request(1))
    peer.read_pdu()


def answers_another_service(peer: Connection) -> None:
    peer.accept()
    context_id, command, _ = peer.read_object()
    assert command is not None
    peer.send_message(context_id, encode_response(replace(command, field=C_ECHO_RQ), 0))
    peer.read_pdu()


def releases_instead_of_answering(peer: Connection) -> None:
    peer.accept()
    peer.read_object()
    peer.send(struct.pack(">BxI4x", 5, 4))
    peer.read_pdu()


CASES: list[tuple[Serve, str]] = [
    (hangs_before_the_answer, "was silent"),
    (hangs_in_the_middle, "was silent"),
    (hangs_before_accepting, "did not answer the association request"),
    (closes_at_once, "closed the"),
    (closes_in_the_middle, "closed the"),
    (aborts_in_the_middle, "aborted the association (0/0)"),
    (answers_nonsense, "broke the DICOM protocol"),
    (talks_http, "broke the DICOM protocol"),
    (lies_about_lengths, "broke the DICOM protocol"),
    (answers_another_message, "broke the DICOM protocol"),
    (answers_with_a_request, "broke the DICOM protocol"),
    (answers_another_service, "broke the DICOM protocol"),
    (releases_instead_of_answering, "closed the"),
]


@pytest.mark.parametrize(("serve", "says"), CASES, ids=[serve.__name__ for serve, _ in CASES])
def test_no_answer_is_no_delivery(serve: Serve, says: str) -> None:
    with DimsePeer(serve) as peer:
        sender = sender_to(peer.port, "STANDIN", connect_timeout_seconds=0.4, response_timeout_seconds=0.4)
        started = time.monotonic()
        deliveries, reason = deliver(sender)
        sender.close()
        assert time.monotonic() - started < 4
        # Whoever ends an association may have meant to; whoever hangs or lies is not asked twice.
        assert peer.connections == 1 or (peer.connections == 2 and ("closed" in says or "aborted" in says))
    assert says in reason
    assert list(deliveries.outcomes.values()) == [Deferred(reason, Scope.SITE)]


def test_what_was_answered_before_the_trouble_stays_answered() -> None:
    def serve(peer: Connection) -> None:
        peer.accept()
        if peer.number == 1:
            peer.store()
            peer.store(0xB007)
            peer.store(0xC123)
        peer.read_object()

    with DimsePeer(serve) as peer:
        deliveries, reason = deliver(sender_to(peer.port, "STANDIN"), count=6)
    first, second, third, fourth = deliveries.outcomes.values()
    assert first == Delivered(0)
    assert second == Delivered(0xB007, warning=True)
    assert isinstance(third, Failed)
    assert fourth == Deferred(reason, Scope.SITE)


def test_a_peer_that_ends_the_association_after_each_object_is_served_all_the_same() -> None:
    """Some peers limit the objects of an association, by abort, release or close: no attempt is lost to that."""

    def serve(peer: Connection) -> None:
        peer.accept()
        peer.store()
        if peer.number % 3 == 0:
            peer.abort()
        elif peer.number % 3 == 1:
            peer.send(struct.pack(">BxI4x", 5, 4))
            peer.read_pdu()

    with DimsePeer(serve) as peer:
        deliveries, reason = deliver(sender_to(peer.port, "STANDIN"), count=7, pixels=1_000_000)
    assert reason == ""
    assert set(deliveries.outcomes.values()) == {Delivered(0)}
    assert len(deliveries.outcomes) == 7


def test_a_peer_that_takes_one_byte_at_a_time_is_still_served() -> None:
    def serve(peer: Connection) -> None:
        peer.accept(max_pdu_bytes=128)
        while peer.store():
            pass

    with DimsePeer(serve) as peer:
        sender = sender_to(peer.port, "STANDIN")
        deliveries, reason = deliver(sender, count=2, pixels=20_000)
        sender.close()
    assert reason == ""
    assert set(deliveries.outcomes.values()) == {Delivered(0)}


def test_unlimited_pdus_and_message_ids_that_wrap() -> None:
    lengths: list[int] = []

    def serve(peer: Connection) -> None:
        peer.accept(max_pdu_bytes=0)
        while True:
            context_id, command, length = peer.read_object()
            if command is None:
                return
            lengths.append(length)
            peer.send_message(context_id, encode_response(command, 0))

    with DimsePeer(serve) as peer:
        sender = sender_to(peer.port, "STANDIN")
        deliveries = Deliveries()
        claim = deliveries.add_new()
        for _ in range(3):
            deliveries.outcomes.clear()
            assert deliveries.deliver(sender) is None
        sender._lane._message_id = 0xFFFE
        for _ in range(3):
            deliveries.outcomes.clear()
            assert deliveries.deliver(sender) is None
            assert deliveries.outcome(claim) == Delivered(0)
        assert 1 <= sender._lane._message_id <= 2
        sender.close()
    assert set(lengths) == {len(deliveries.body(claim))}


def test_closing_does_not_wait_for_a_peer_that_ignores_the_release() -> None:
    gone = threading.Event()

    def serve(peer: Connection) -> None:
        peer.accept()
        peer.store()
        gone.wait(20)

    with DimsePeer(serve) as peer:
        sender = sender_to(peer.port, "STANDIN")
        deliver(sender, count=1)
        started = time.monotonic()
        sender.close()
        assert time.monotonic() - started < 7
        gone.set()

"""The traps of running pynetdicom without its DUL thread, one by one, over real connections."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from relaypacs.upper.accept import release
from tests.peers.raw import (
    ABORT,
    AC,
    COMMAND,
    DATA,
    LAST,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    VERIFICATION,
    Raw,
    associate_rq,
    element,
    item,
    pdu,
    pdv,
    request,
    uid,
)
from tests.unit.upper.pair import COMMITMENT, FIND, associated, connected, take

RELEASE = pdu(RELEASE_RQ, bytes(4))
ABORTED = pdu(ABORT, b"\0\0\0\0")


def test_blocking_get_msg_reads_the_socket() -> None:
    with associated(VERIFICATION) as (peer, association, _):
        timer = threading.Timer(0.2, peer.send, [pdu(DATA, pdv(1, COMMAND | LAST, request(0x0030, message_id=5)))])
        timer.start()
        context_id, message = association.dimse.get_msg(block=True)
        assert (context_id, message.MessageID) == (1, 5)
        timer.join()


def test_blocking_get_msg_keeps_the_dimse_timeout() -> None:
    with associated(VERIFICATION) as (_, association, _):
        association.dimse_timeout = 0.2
        started = time.monotonic()
        assert association.dimse.get_msg(block=True) == (None, None)
        assert 0.15 < time.monotonic() - started < 2.0
        assert association.inline.state == "Sta6"


@pytest.mark.parametrize("last_words", [ABORTED, RELEASE, b"", pdu(AC, bytes(68)), pdu(99, b"")])
def test_blocking_get_msg_ends_when_nothing_more_can_come(last_words: bytes) -> None:
    with associated(VERIFICATION) as (peer, association, _):
        peer.send(last_words)
        if not last_words:
            peer.sock.close()
        assert association.dimse.get_msg(block=True) == (None, None)


def test_release_spins_on_nothing() -> None:
    """As acceptor: pynetdicom's release() waits for a reactor to stand still; there is none."""
    with associated(VERIFICATION) as (peer, association, _):
        thread = threading.Thread(target=association.release)
        thread.start()
        assert peer.read_pdu()[0] == RELEASE_RQ
        peer.send(pdu(RELEASE_RP, bytes(4)))
        thread.join(5)
        assert not thread.is_alive()
        assert association.is_released


def test_release_collision_ends_in_release() -> None:
    """PS3.8 7.2.2.7: as acceptor we answer after the requestor has."""
    with associated(VERIFICATION) as (peer, association, _):
        thread = threading.Thread(target=association.release)
        thread.start()
        assert peer.read_pdu()[0] == RELEASE_RQ
        peer.send(RELEASE)
        peer.send(pdu(RELEASE_RP, bytes(4)))
        assert peer.read_pdu()[0] == RELEASE_RP
        thread.join(5)
        assert association.is_released


def test_abort_does_not_sleep_and_is_sent_once() -> None:
    with associated(VERIFICATION) as (peer, association, _):
        started = time.monotonic()
        association.abort()
        association.abort()
        assert time.monotonic() - started < 0.09
        assert peer.read_pdu() == (ABORT, b"\0\0\0\0")
        association.inline.close(0.0)
        assert peer.is_closed()


def test_no_thread_is_started() -> None:
    before = threading.active_count()
    with associated(VERIFICATION):
        assert threading.active_count() == before


def find_rq(message_id: int = 1) -> bytes:
    identifier = struct.pack("<HHI", 8, 0x52, 8) + b"PATIENT "
    return pdu(
        DATA, pdv(1, COMMAND | LAST, request(0x0020, message_id=message_id, sop_class=FIND, dataset=True))
    ) + pdu(DATA, pdv(1, LAST, identifier))


def cancel_rq(message_id: int = 1) -> bytes:
    data = element(0x0100, b"\xff\x0f") + element(0x0120, struct.pack("<H", message_id)) + element(0x0800, b"\x01\x01")
    return pdu(DATA, pdv(1, COMMAND | LAST, data))


def match() -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel = "PATIENT"
    return found


def test_cancel_is_seen_while_a_handler_runs() -> None:
    with associated(FIND) as (peer, association, _):
        seen = []

        def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
            yield 0xFF00, match()
            peer.send(cancel_rq())
            for _ in range(200):
                if event.is_cancelled:
                    seen.append(True)
                    yield 0xFE00, None
                    return
                time.sleep(0.01)
            yield 0xFF00, match()

        association.bind(evt.EVT_C_FIND, find)
        peer.send(find_rq())
        context_id, message = association.dimse.get_msg(block=True)
        association._serve_request(message, context_id)
        assert seen
        assert peer.read_status() == 0xFF00
        assert peer.read_pdu()[0] == DATA  # the match
        assert peer.read_status() == 0xFE00


def test_abort_is_seen_while_a_handler_runs() -> None:
    with associated(FIND) as (peer, association, _):
        seen = []

        def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
            yield 0xFF00, match()
            peer.send(ABORTED)
            for _ in range(200):
                if event.assoc.acse.is_aborted():
                    seen.append(True)
                    return
                time.sleep(0.01)

        association.bind(evt.EVT_C_FIND, find)
        peer.send(find_rq())
        context_id, message = association.dimse.get_msg(block=True)
        association._serve_request(message, context_id)
        assert seen
        assert association.inline.peer_abort == (0, 0)
        assert association.inline.state == "Sta1"


def test_a_message_that_comes_while_a_handler_runs_is_kept_for_later() -> None:
    with associated(FIND, VERIFICATION) as (peer, association, _):

        def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
            peer.send(pdu(DATA, pdv(3, COMMAND | LAST, request(0x0030, message_id=77))))
            for _ in range(20):
                assert not event.is_cancelled
                time.sleep(0.01)
            yield 0x0000, None

        association.bind(evt.EVT_C_FIND, find)
        peer.send(find_rq())
        context_id, message = association.dimse.get_msg(block=True)
        association._serve_request(message, context_id)
        assert peer.read_status() == 0
        context_id, message = association.dimse.get_msg(block=True)
        assert (context_id, message.MessageID) == (3, 77)


def event_report(message_id: int) -> bytes:
    data = (
        element(0x0002, uid(COMMITMENT)) + element(0x0100, b"\0\x01") + element(0x0110, struct.pack("<H", message_id))
    )
    data += element(0x0800, b"\x01\x01") + element(0x1000, uid("1.2.840.10008.1.20.1.1")) + element(0x1002, b"\x01\0")
    return pdu(DATA, pdv(1, COMMAND | LAST, data))


def test_two_writers_do_not_mix_their_pdus() -> None:
    """pynetdicom serves N-EVENT-REPORT in a thread of its own, beside the one that answers everything else."""
    count = 60
    with associated(COMMITMENT, VERIFICATION) as (peer, association, _):
        association.bind(evt.EVT_N_EVENT_REPORT, lambda event: (0x0000, None))
        for number in range(count):
            peer.send(event_report(number) + pdu(DATA, pdv(3, COMMAND | LAST, request(0x0030, message_id=number))))
        for _ in range(count):
            context_id, message = association.dimse.get_msg(block=True)
            association._serve_request(message, context_id)
        answers = [peer.read_command() for _ in range(2 * count)]
        for field in (0x8030, 0x8100):
            numbers = [one[0x0120] for one in answers if one[0x0100] == field.to_bytes(2, "little")]
            assert sorted(numbers) == sorted(struct.pack("<H", number) for number in range(count))


def test_asynchronous_window_is_one_whatever_is_proposed() -> None:
    with associated(VERIFICATION, more=item(0x53, struct.pack(">HH", 0, 8))) as (_, _, answer):
        place = answer.find(b"\x53\x00\x00\x04")
        assert place < 0 or answer[place + 4 : place + 8] == b"\0\x01\0\x01"


def test_protocol_version_is_still_checked_by_the_machine() -> None:
    with connected() as (peer, sock):
        association = take(sock, associate_rq(version=2))
        assert peer.read_pdu() == (RJ, b"\0\x01\x02\x02")
        assert association.inline.state == "Sta13"
        association.inline.close(0.0)


def test_user_identity_is_refused_by_a_handler_that_is_always_bound() -> None:
    with connected() as (peer, sock):
        association = take(sock, associate_rq(more=item(0x58, b"\x01\x01\0\x04user\0\0")))
        assert peer.read_pdu() == (RJ, b"\0\x01\x01\x01")
        assert association.is_rejected
        association.inline.close(0.0)


def test_release_is_answered_and_the_peer_closes() -> None:
    with associated(VERIFICATION) as (peer, association, _):
        peer.send(RELEASE)
        association.inline.pump_until(lambda: association.inline.state == "Sta8", 5)
        release(association)
        assert peer.read_pdu() == (RELEASE_RP, bytes(4))
        started = time.monotonic()
        threading.Timer(0.2, peer.sock.close).start()
        association.inline.close(5.0)
        assert 0.1 < time.monotonic() - started < 2.0
        assert association.inline.state == "Sta1"


def test_peer_that_never_closes_is_closed_on() -> None:
    with associated(VERIFICATION) as (peer, association, _):
        association.abort()
        started = time.monotonic()
        flood = threading.Thread(target=send_for_ever, args=(peer,), daemon=True)
        flood.start()
        association.inline.close(0.3)
        assert time.monotonic() - started < 2.0


def send_for_ever(peer: Raw) -> None:
    try:
        while True:
            peer.send(bytes(1000))
    except OSError:
        pass


def test_data_after_our_abort_is_ignored() -> None:
    with associated(VERIFICATION) as (peer, association, _):
        peer.send(pdu(99, b""))
        association.inline.pump_until(lambda: False, 5)
        assert association.inline.state == "Sta13"
        assert association.inline.aborted_because
        association.inline.send_pdu(_release())
        assert peer.read_pdu() == (ABORT, b"\0\0\x02\x01")


def _release() -> object:
    from pynetdicom.pdu_primitives import A_RELEASE

    return A_RELEASE()


def test_a_dataset_that_is_not_to_be_stored_is_bounded() -> None:
    with associated(FIND) as (peer, association, _):
        command = pdu(DATA, pdv(1, COMMAND | LAST, request(0x0020, sop_class=FIND, dataset=True)))
        flood = threading.Thread(target=_flood, args=(peer, command), daemon=True)
        flood.start()
        assert association.dimse.get_msg(block=True) == (None, None)
        assert "over the limit" in association.inline.aborted_because


def _flood(peer: Raw, command: bytes) -> None:
    try:
        peer.send(command)
        for _ in range(200):
            peer.send(pdu(DATA, pdv(1, 0, bytes(60_000))))
    except OSError:
        pass


def test_broken_command_for_pynetdicom_is_aborted() -> None:
    nonsense = element(0x0100, b"\x77\x77") + element(0x0800, b"\x01\x01")
    with associated(VERIFICATION) as (peer, association, _):
        peer.send(pdu(DATA, pdv(1, COMMAND | LAST, nonsense)))
        assert association.dimse.get_msg(block=True) == (None, None)
        assert peer.read_pdu() == (ABORT, b"\0\0\x02\x06")

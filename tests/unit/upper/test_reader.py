"""The reader's buffer: leased while bytes flow, given back in silence, never shared."""

from __future__ import annotations

import os
import threading
import time

import pytest

from relaypacs.dicom.pdu import PduError
from relaypacs.upper.reader import Buffers, Command, Pdu, Reader
from relaypacs.upper.stream import Stream
from tests.peers.raw import COMMAND, DATA, LAST, RELEASE_RQ, pdu, pdv
from tests.unit.upper.pair import connected, reader_of


def test_buffer_is_given_back_after_a_second_of_silence() -> None:
    buffers = Buffers(4096)
    marked = buffers.take()
    marked[:4] = b"mark"
    buffers.give(marked)
    with connected() as (peer, sock):
        stream = Stream(sock, send_timeout_seconds=5.0)
        reader = Reader(stream, buffers, max_pdu_bytes=4096, max_command_bytes=4096, pdu_timeout_seconds=5.0)
        thread = threading.Thread(target=reader.read_command, args=(10.0,))
        thread.start()
        time.sleep(0.3)
        other = buffers.take()
        assert bytes(other[:4]) != b"mark"  # the reader holds the marked one
        time.sleep(1.2)
        assert bytes(buffers.take()[:4]) == b"mark"
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        thread.join(5)
        assert not thread.is_alive()


def test_stop_is_seen_between_messages_only() -> None:
    told, teller = os.pipe()
    with connected() as (peer, sock):
        reader = reader_of(sock)
        peer.send(pdu(DATA, pdv(1, COMMAND, b"ab")))
        threading.Timer(0.2, os.write, (teller, b"x")).start()
        threading.Timer(0.5, peer.send, (pdu(DATA, pdv(1, COMMAND | LAST, b"cd")),)).start()
        assert reader.read_command(5.0, told) == Command(1, b"abcd")
        assert reader.read_command(5.0, told) is None
        assert reader.read_command(5.0, told, lambda: True) is None
    os.close(told)
    os.close(teller)


def test_dataset_is_handed_over_in_pieces_no_larger_than_the_buffer() -> None:
    dataset = bytes(range(256)) * 200
    pieces: list[int] = []
    whole = bytearray()

    def sink(fragments: object) -> None:
        assert isinstance(fragments, list)
        pieces.append(sum(map(len, fragments)))
        for fragment in fragments:
            whole.extend(fragment)

    with connected() as (peer, sock):
        reader = reader_of(sock, buffer_bytes=1000)
        parts = [pdu(DATA, pdv(1, 0, dataset[at : at + 777])) for at in range(0, len(dataset), 777)]
        stream = pdu(DATA, pdv(1, COMMAND | LAST, b"ab")) + b"".join(parts) + pdu(DATA, pdv(1, LAST, b""))
        thread = threading.Thread(target=peer.send, args=(stream + pdu(RELEASE_RQ, bytes(4)),))
        thread.start()
        assert reader.read_command(5.0) == Command(1, b"ab")
        assert reader.read_dataset(1, sink) is None
        assert reader.read_command(5.0) == Pdu(5, pdu(RELEASE_RQ, bytes(4)))
        thread.join()
    assert bytes(whole) == dataset
    assert max(pieces) <= 1000


@pytest.mark.parametrize("length", [0, 100, 2600])
def test_the_end_of_a_dataset_goes_to_who_is_there_for_it_and_stays_until_more_is_read(length: int) -> None:
    dataset = bytes(index % 251 for index in range(length))
    before = bytearray()
    end: list[memoryview] = []
    with connected() as (peer, sock):
        reader = reader_of(sock, buffer_bytes=1000)
        parts = [pdu(DATA, pdv(1, 0, dataset[at : at + 90])) for at in range(0, length, 90)]
        peer.send(b"".join(parts) + pdu(DATA, pdv(1, LAST, b"end")))
        assert reader.read_dataset(1, lambda views: before.extend(b"".join(views)), end.extend) is None
        peer.send(pdu(RELEASE_RQ, bytes(4)))
        assert bytes(before) + b"".join(end) == dataset + b"end"
        assert b"".join(end).endswith(b"end")


def test_command_set_is_bounded() -> None:
    with connected() as (peer, sock):
        peer.send(pdu(DATA, pdv(1, COMMAND, bytes(8000))) * 2)
        with pytest.raises(PduError, match="over the limit"):
            reader_of(sock).read_command(5.0)


def test_dripping_command_set_is_bounded_in_time() -> None:
    with connected() as (peer, sock):
        reader = reader_of(sock, timeout_seconds=0.6)
        done = threading.Event()

        def drip() -> None:
            for byte in pdu(DATA, pdv(1, COMMAND | LAST, bytes(100))):
                peer.send(bytes((byte,)))
                if done.wait(0.1):
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            reader.read_command(5.0)
        assert time.monotonic() - started < 2.0
        done.set()
        thread.join()

"""The stream: deadlines to the point, any descriptor number, no descriptor left."""

from __future__ import annotations

import os
import resource
import socket
import struct
import threading
import time

import pytest

from relaypacs.upper.stream import Stream
from tests.unit.upper.pair import connected

TCP_INFO_BYTES = 104


def test_deadlines() -> None:
    with connected() as (_, sock):
        stream = Stream(sock, send_timeout_seconds=0.3)
        for timeout in (0.2, 1.3):
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                stream.recv_into(memoryview(bytearray(10)), timeout)
            assert timeout - 0.01 <= time.monotonic() - started < timeout + 0.5


def test_stop_descriptor_ends_the_wait() -> None:
    reader, writer = os.pipe()
    with connected() as (peer, sock):
        stream = Stream(sock, send_timeout_seconds=1.0)
        peer.send(b"x")
        assert stream.wait_readable(5.0, reader)
        stream.recv_into(memoryview(bytearray(1)), 1.0)
        os.write(writer, b"x")
        assert not stream.wait_readable(5.0, reader)
    os.close(reader)
    os.close(writer)


def test_descriptors_over_1023_work() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("no descriptor over 1023 is allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    with connected() as (peer, sock):
        high = socket.socket(fileno=os.dup2(sock.fileno(), 2500))
        stream = Stream(high, send_timeout_seconds=1.0)
        with pytest.raises(TimeoutError):
            stream.recv_into(memoryview(bytearray(1)), 1.2)
        peer.send(b"x")
        assert stream.recv_into(memoryview(bytearray(1)), 1.0) == 1
        stream.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_buffers_arrive_in_order() -> None:
    with connected() as (peer, sock):
        stream = Stream(sock, send_timeout_seconds=5.0)
        buffers = [struct.pack(">I", number) * (number % 50) for number in range(3000)]
        groups = [buffers[:2500], [], buffers[2500:2600], buffers[2600:]]
        thread = threading.Thread(target=stream.send_groups, args=(groups,))
        thread.start()
        expected = b"".join(buffers)
        assert peer.read(len(expected)) == expected
        thread.join()


def test_delay_is_off() -> None:
    with connected() as (_, sock):
        Stream(sock, send_timeout_seconds=1.0)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_peer_with_nagle_is_not_kept_waiting() -> None:
    """DCMTK writes a PDU in two sends with Nagle on: the second waits for the ACK of the first, 40 ms if delayed."""
    rounds = 30
    with connected() as (peer, sock):
        stream = Stream(sock, send_timeout_seconds=5.0)
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)

        def answer() -> None:
            view = memoryview(bytearray(100))
            for _ in range(rounds):
                got = 0
                while got < 20:
                    got += stream.recv_into(view, 5.0)
                stream.send(b"ok")

        thread = threading.Thread(target=answer)
        thread.start()
        started = time.monotonic()
        for _ in range(rounds):
            peer.send(b"0123456789")
            peer.send(b"0123456789")
            assert peer.read(2) == b"ok"
        assert time.monotonic() - started < rounds * 0.02
        thread.join()


def test_interrupt_says_last_words_and_ends_reads() -> None:
    with connected() as (peer, sock):
        stream = Stream(sock, send_timeout_seconds=5.0)
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(stream.recv_into(memoryview(bytearray(1)), 30.0)))
        thread.start()
        time.sleep(0.1)
        stream.interrupt(b"bye")
        thread.join(5)
        assert results == [0]
        assert peer.read(10) == b"bye"

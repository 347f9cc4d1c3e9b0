"""An association's connection over TLS: what `poll` can't see, records cut anywhere, and two threads."""

from __future__ import annotations

import os
import random
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from relaypacs.upper.tls import Channel, TlsFailed, server_context
from relaypacs.upper.tls_stream import TlsStream
from tests.peers.pki import OPENSSL, Authority, Identity, client


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Identity:
    return authority.issue()


class Peer:
    """Python's TLS at the other end, over buffers, so that a test says when and how its bytes go out."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def records(self, *texts: bytes) -> bytes:
        """Each text in records of its own, not yet sent."""
        for text in texts:
            self.tls.write(text)
        return self.outgoing.read()

    def read(self, count: int) -> bytes:
        """Exactly so many bytes of plaintext, or fewer at the end."""
        data = b""
        while len(data) < count:
            try:
                plaintext = self.tls.read(count - len(data))
                if not plaintext:  # close_notify
                    break
                data += plaintext
            except ssl.SSLWantReadError:
                more = self.sock.recv(65536)
                if not more:
                    break
                self.incoming.write(more)
            except ssl.SSLZeroReturnError:
                break
        return data


@contextmanager
def connected(identity: Identity, context: ssl.SSLContext) -> Iterator[tuple[Peer, TlsStream]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=20.0)
        ours, _ = listener.accept()
    peer = Peer(theirs, context)
    channel = Channel(server_context(identity.certificate, identity.key, None, "none"))
    done = False
    while not done:
        try:
            peer.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            done = True
        channel.feed(peer.outgoing.read())
        channel.handshake()
        peer.incoming.write(channel.output())
    stream = TlsStream(ours, channel, send_timeout_seconds=5.0)
    with theirs:
        yield peer, stream
        stream.close()


@pytest.fixture
def pair(authority: Authority, server: Identity) -> Iterator[tuple[Peer, TlsStream]]:
    with connected(server, client(authority)) as both:
        yield both


def read(stream: TlsStream, count: int, view_bytes: int = 100_000) -> bytes:
    data, view = b"", memoryview(bytearray(view_bytes))
    while len(data) < count:
        got = stream.recv_into(view[: min(view_bytes, count - len(data))], 20.0)
        assert got > 0
        data += view[:got]
    return data


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("view_bytes", [7, 4096, 262144])
def test_any_cut_gives_the_same_bytes(authority: Authority, server: Identity, version: str, view_bytes: int) -> None:
    rng = random.Random(view_bytes)
    texts = [rng.randbytes(rng.choice((1, 12, 300, 16384, 20000))) for _ in range(12)]
    with connected(server, client(authority, versions=version)) as (peer, stream):
        sent = peer.records(*texts)
        cuts = [0, *sorted(rng.sample(range(1, len(sent)), 60)), len(sent)]

        def send() -> None:
            for start, end in pairwise(cuts):
                peer.sock.sendall(sent[start:end])

        thread = threading.Thread(target=send)
        thread.start()
        assert read(stream, sum(map(len, texts)), view_bytes) == b"".join(texts)
        thread.join()


def test_bytes_hide_from_poll_and_are_found(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    peer.sock.sendall(peer.records(b"one", b"two", b"three"))
    view = memoryview(bytearray(3))
    assert stream.recv_into(view, 5.0) == 3
    assert bytes(view) == b"one"
    # All of it has been read from the socket: poll would say that nothing is there.
    assert stream.readable_now()
    assert stream.wait_readable(0.0)
    assert read(stream, 8) == b"twothree"
    assert not stream.readable_now()


def test_half_a_record_is_nothing_to_read(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    record = peer.records(b"whole")
    peer.sock.sendall(record[:-1])
    assert not stream.readable_now()
    with pytest.raises(TimeoutError):
        stream.wait_readable(0.1)
    with pytest.raises(TimeoutError):
        stream.recv_into(memoryview(bytearray(10)), 0.1)
    peer.sock.sendall(record[-1:])
    assert stream.wait_readable(5.0)
    assert read(stream, 5) == b"whole"


def test_a_peer_that_sends_a_byte_now_and_then_meets_the_deadline(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    record, over = peer.records(bytes(16000)), threading.Event()

    def trickle() -> None:
        for byte in record:
            if over.wait(0.02):
                return
            peer.sock.sendall(bytes((byte,)))

    thread = threading.Thread(target=trickle)
    thread.start()
    with pytest.raises(TimeoutError):
        stream.recv_into(memoryview(bytearray(10)), 0.5)
    with pytest.raises(TimeoutError):
        stream.recv_into(memoryview(bytearray(10)), 1.5)
    over.set()
    thread.join()


def test_stop_descriptor_ends_the_wait(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    reader, writer = os.pipe()
    os.write(writer, b"x")
    assert not stream.wait_readable(5.0, reader)
    peer.sock.sendall(peer.records(b"one", b"two"))
    assert read(stream, 3) == b"one"
    assert stream.wait_readable(5.0, reader)  # what came first
    os.close(reader)
    os.close(writer)


def test_buffers_arrive_in_order_in_full_records(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    rng = random.Random(1)
    buffers = [rng.randbytes(rng.choice((0, 1, 12, 16380, 131072, 300_000))) for _ in range(60)]
    expected = b"".join(buffers)
    thread = threading.Thread(target=stream.send_groups, args=([buffers[:40], [], buffers[40:41], buffers[41:]],))
    thread.start()
    assert peer.read(len(expected)) == expected
    thread.join()
    stream.send(b"A-RELEASE-RP")
    assert peer.read(12) == b"A-RELEASE-RP"


def test_a_group_has_left_when_the_next_is_asked_for(pair: tuple[Peer, TlsStream]) -> None:
    """The CRC of an object is summed then, and compared before its last fragment leaves: the iterable raises."""
    peer, stream = pair

    def groups() -> Iterator[list[bytes]]:
        yield [bytes(60_000), bytes(40_000)]
        assert len(peer.read(100_000)) == 100_000
        raise ValueError("corrupt")

    with pytest.raises(ValueError, match="corrupt"):
        stream.send_groups(groups())
    stream.close()
    assert peer.read(1) == b""


def test_reading_and_writing_in_two_threads(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    data = random.Random(2).randbytes(3 << 20)

    def echo() -> None:
        left = len(data)
        while left:
            more = peer.read(min(left, 50_000))
            left -= len(more)
            peer.sock.sendall(peer.records(more))

    threads = [threading.Thread(target=echo), threading.Thread(target=stream.send_groups, args=([[data]],))]
    for thread in threads:
        thread.start()
    assert read(stream, len(data)) == data
    for thread in threads:
        thread.join()


def test_close_is_said_and_heard(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    peer.sock.sendall(peer.records(b"last"))
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    peer.sock.sendall(peer.outgoing.read())
    view = memoryview(bytearray(10))
    assert stream.recv_into(view, 5.0) == 4
    assert stream.recv_into(view, 5.0) == 0
    assert stream.readable_now()
    assert stream.wait_closed(5.0)
    stream.close()
    assert peer.read(1) == b""
    assert stream.fileno() == -1


def test_a_close_without_a_word_is_a_close(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    peer.sock.sendall(peer.records(b"last"))
    peer.sock.close()
    view = memoryview(bytearray(10))
    assert stream.wait_readable(5.0)
    assert stream.recv_into(view, 5.0) == 4
    assert stream.wait_readable(5.0)
    assert stream.recv_into(view, 5.0) == 0


def test_a_damaged_record_is_an_error_of_the_connection(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    record = bytearray(peer.records(b"data"))
    record[-1] ^= 1
    peer.sock.sendall(bytes(record))
    assert stream.wait_readable(5.0)
    with pytest.raises(TlsFailed):
        stream.recv_into(memoryview(bytearray(10)), 5.0)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        peer.read(1)


def test_a_peer_that_takes_nothing_meets_the_deadline(authority: Authority, server: Identity) -> None:
    with connected(server, client(authority)) as (_, stream):
        stream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, b"\0" * 8 + (200_000).to_bytes(8, "little"))
        with pytest.raises(TimeoutError):
            stream.send_groups([[bytes(1 << 20)]] * 64)


def test_interrupt_from_another_thread(pair: tuple[Peer, TlsStream]) -> None:
    peer, stream = pair
    ended = threading.Event()

    def wait() -> None:
        assert stream.recv_into(memoryview(bytearray(10)), 30.0) == 0
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    stream.interrupt(b"A-ABORT")
    thread.join(20.0)
    assert ended.is_set()
    assert peer.read(100) == b"A-ABORT"


def test_keys_are_changed_under_way_and_that_is_nothing_to_read(authority: Authority, server: Identity) -> None:
    """`openssl s_client` sends KeyUpdate at `k` and, asking for ours too, at `K` (RFC 8446 4.6.3)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [OPENSSL, "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-CAfile"]
        peer = subprocess.Popen(
            [*command, str(authority.certificate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        ours, _ = listener.accept()
    assert peer.stdin is not None
    assert peer.stdout is not None
    channel = Channel(server_context(server.certificate, server.key, None, "none"))
    while not channel.handshake():
        ours.sendall(channel.output())
        channel.feed(ours.recv(65536))
    ours.sendall(channel.output())
    with TlsClosing(TlsStream(ours, channel, send_timeout_seconds=5.0)) as stream:
        for letter in b"kKK":
            peer.stdin.write(bytes((letter,)) + b"\n")
            peer.stdin.flush()
            with pytest.raises(TimeoutError):
                stream.wait_readable(0.3)
            peer.stdin.write(b"hello\n")
            peer.stdin.flush()
            assert read(stream, 6) == b"hello\n"
            stream.send(b"and back\n")
        peer.stdin.close()
        assert stream.recv_into(memoryview(bytearray(10)), 10.0) == 0
    output = peer.stdout.read()
    assert output.count(b"and back") == 3
    assert output.count(b"KEYUPDATE") == 3
    assert peer.wait(10) == 0


class TlsClosing:
    """Closes a stream at the end of a `with`."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream

    def __enter__(self) -> TlsStream:
        return self._stream

    def __exit__(self, *_: object) -> None:
        self._stream.close()

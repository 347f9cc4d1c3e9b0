"""A peer that writes by hand, and our end of its connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from relaypacs.dicom.contexts import Offer
from relaypacs.dicom.pdu import read_associate_head
from relaypacs.upper.accept import accept
from relaypacs.upper.element import InlineAssociation
from relaypacs.upper.reader import Buffers, Reader
from relaypacs.upper.stream import Stream
from tests.peers.raw import AC, Raw, associate_rq

FIND = "1.2.840.10008.5.1.4.1.2.1.1"  # Patient Root Query/Retrieve Information Model - FIND
COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
OFFER = Offer(frozenset((FIND, COMMITMENT, "1.2.840.10008.5.1.4.1.1.2")), frozenset(("1.2.840.10008.1.2",)))


@contextmanager
def connected() -> Iterator[tuple[Raw, socket.socket]]:
    """A TCP connection on the loopback interface: the peer, and the accepted socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Raw(listener.getsockname()[1]) as peer:
        sock, _ = listener.accept()
        with sock:
            yield peer, sock


def reader_of(sock: socket.socket, *, buffer_bytes: int = 4096, timeout_seconds: float = 5.0) -> Reader:
    """A reader with small limits."""
    return Reader(
        Stream(sock, send_timeout_seconds=timeout_seconds),
        Buffers(buffer_bytes),
        max_pdu_bytes=65536,
        max_command_bytes=8192,
        pdu_timeout_seconds=timeout_seconds,
    )


def take(sock: socket.socket, request: bytes, *, timeout_seconds: float = 5.0) -> InlineAssociation:
    """Accept an association as reception does."""
    reader = reader_of(sock, timeout_seconds=timeout_seconds)
    return accept(
        sock,
        reader.stream,
        reader,
        read_associate_head(request[6:]),
        calling_ae="RAW",
        called_ae="RELAYPACS",
        offer=OFFER,
        max_pdu_bytes=65536,
        timeout_seconds=timeout_seconds,
    )


@contextmanager
def associated(*abstract_syntaxes: str, more: bytes = b"") -> Iterator[tuple[Raw, InlineAssociation, bytes]]:
    """A peer and our association with it, and the A-ASSOCIATE-AC it got; contexts 1, 3, 5 … in Implicit VR."""
    contexts = [(2 * n + 1, one, ("1.2.840.10008.1.2",)) for n, one in enumerate(abstract_syntaxes)]
    with connected() as (peer, sock):
        association = take(sock, associate_rq(contexts=contexts, more=more))
        kind, answer = peer.read_pdu()
        assert kind == AC
        yield peer, association, answer
        association.inline.close(0.0)

"""What a connection begins with before DICOM does: a balancer's PROXY protocol header, and the TLS handshake.

Used by `receive.edge`, which brings what has come; nothing here waits. What can't go on is a `NotOpened`: it is noted
like a refused association, and the peer gets no more than TLS's alert, or an A-ABORT if it speaks plain DICOM.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence

from prometheus_client import Counter

from relaypacs import log
from relaypacs.dicom.pdu import AbortReason, abort_pdu
from relaypacs.receive.certificates import Certificates
from relaypacs.receive.proxy import SIGNATURE, STRAY_HEADER, ProxyError, read_header
from relaypacs.receive.rejections import Refusal
from relaypacs.receive.request import REJECTED
from relaypacs.receive.room import Room
from relaypacs.receive.waiting import Waiting, spoken
from relaypacs.upper.tls import Channel, TlsFailed, speaks_tls

HANDSHAKES = Counter("relaypacs_tls_handshakes_total", "TLS handshakes on reception, by how they ended.", ["outcome"])
_PDU_TYPES = range(1, 8)
_PLAIN = "the peer speaks DICOM without TLS, and this port is for TLS: set TLS there, or use the plain port"
_NOT_TLS = "the peer does not speak TLS, and this port is for TLS"


class NotOpened(Exception):
    """This connection can't go on; the message is the sentence for people."""

    def __init__(self, word: str, sentence: str, last_words: bytes = b"") -> None:
        super().__init__(sentence)
        self.word = word
        self.last_words = last_words
        """What to answer before TLS is there."""


class Opening:
    """The beginnings of one process's connections."""

    def __init__(self, proxy_from: Sequence[str], certificates: Certificates | None) -> None:
        self._balancers = tuple(ipaddress.ip_network(network, strict=False) for network in proxy_from)
        self._certificates = certificates
        self._plaintext = memoryview(bytearray(65536))

    def is_balancer(self, host: str) -> bool:
        """Whether connections from this numeric address begin with a PROXY protocol header."""
        return bool(self._balancers) and _within(host, self._balancers)

    def header(self, waiting: Waiting, data: bytes) -> bytes | None:
        """The PROXY protocol header: None while it isn't whole, else what came behind it. Raises `NotOpened`."""
        waiting.received += data
        try:
            header = read_header(waiting.received)
        except ProxyError as error:
            raise NotOpened("proxy", str(error)) from None
        if header is None:
            return None
        if header.source is not None:
            waiting.host = header.source[0]
            waiting.peer = spoken(*header.source)
        waiting.local = header.source is None
        rest = bytes(waiting.received[header.size_bytes :])
        waiting.received.clear()
        return rest

    def begin_tls(self, waiting: Waiting, data: bytes) -> None:
        """Begin the TLS handshake with the first bytes of the peer, which stay to be fed. Raises `NotOpened`."""
        if not speaks_tls(data):
            if _plain(data):
                raise NotOpened("tls-plain", _PLAIN, abort_pdu(2, AbortReason.NOT_SPECIFIED))
            raise NotOpened(*(("proxy", STRAY_HEADER) if data.startswith(SIGNATURE) else ("tls", _NOT_TLS)))
        assert self._certificates is not None  # there are no TLS listeners without
        waiting.channel = Channel(self._certificates.context)

    def handshake(self, waiting: Waiting, data: bytes) -> bool:
        """Go on with the TLS handshake; whether it is done. Raises `NotOpened`, and OSError if the peer is gone."""
        channel = waiting.channel
        assert channel is not None
        channel.feed(data)
        try:
            done = channel.handshake()
        except TlsFailed as error:
            HANDSHAKES.labels("failed").inc()
            raise NotOpened(error.word, f"no TLS with the peer: {error}") from None
        waiting.flush()
        if done:
            HANDSHAKES.labels("done").inc()
            waiting.secured = True
            waiting.names = channel.peer_names()
        return done

    def decrypt(self, waiting: Waiting, data: bytes) -> bytes:
        """What came inside TLS, maybe nothing. Raises `NotOpened`, EOFError at the peer's close, OSError."""
        channel = waiting.channel
        assert channel is not None
        if data:
            channel.feed(data)
        found = bytearray()
        try:
            while (count := channel.read_into(self._plaintext)) > 0:
                found += self._plaintext[:count]
        except TlsFailed as error:
            if not found:
                raise NotOpened(error.word, f"no TLS with the peer: {error}") from None
        waiting.flush()
        if count == 0 and not found:
            raise EOFError
        return bytes(found)


def tell_not_opened(room: Room, error: NotOpened, waiting: Waiting) -> None:
    """Log and count a connection that is refused before DICOM."""
    REJECTED.labels(error.word).inc()
    room.shared.failed(waiting.host, error.word)
    refusal = Refusal(waiting.host, waiting.peer, "", "", error.word, str(error), waiting.secured)
    if row := room.association_log.rejected(refusal):
        log.event(log.WARNING, "connection-refused", str(error), trace_id=row, peer=waiting.peer, reason=error.word)


def _plain(data: bytes) -> bool:
    return data[0] in _PDU_TYPES and data[1:2] in (b"", b"\0")


@functools.lru_cache(maxsize=1024)
def _within(host: str, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)

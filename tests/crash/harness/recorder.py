"""A storage SCP that keeps nothing but counts everything: each dataset that came whole, in order, repeats and all.

Its protocol is written by hand on `tests.peers.raw`, so that it shares no code with the sender under test. What is cut
before its last fragment has not arrived.
"""

from __future__ import annotations

import socket
import struct
import time

from tests.crash.harness.counting import CountingPeer
from tests.peers import raw

_MAX_PDU_BYTES = 2048
"""So small that a large object leaves the sender in several system calls."""


class Recorder(CountingPeer):
    """See `CountingPeer`."""

    def __init__(self, *, aet: str = "RECORDER", delay_seconds: float = 0.0) -> None:
        super().__init__(delay_seconds=delay_seconds)
        self.aet = aet

    def _serve(self, connection: socket.socket) -> None:
        peer = _Peer(connection)
        try:
            while self._message(peer):
                pass
        except OSError:
            pass
        finally:
            if peer.dataset:
                self._record_cut()
            connection.close()

    def _message(self, peer: _Peer) -> bool:
        """Serve one PDU; whether there may be another."""
        kind, body = peer.read_pdu()
        if kind == raw.RQ:
            peer.send(associate_ac(body))
        elif kind == raw.RELEASE_RQ:
            peer.send(raw.pdu(raw.RELEASE_RP, bytes(4)))
        elif kind == raw.DATA:
            for context_id, control, data in pdvs(body):
                peer.take(control, data)
                if control == raw.LAST:
                    self._store(peer, context_id)
        else:
            return False
        return True

    def _store(self, peer: _Peer, context_id: int) -> None:
        request = raw.elements(bytes(peer.command))
        sop_instance = request[0x1000].rstrip(b"\0").decode()
        self._record(sop_instance, peer.dataset)
        peer.command, peer.dataset = bytearray(), bytearray()
        time.sleep(self._delay_seconds)
        peer.send(raw.pdu(raw.DATA, raw.pdv(context_id, raw.COMMAND | raw.LAST, store_rsp(request))))


class _Peer(raw.Raw):
    """The accepted end of a connection, and the message that is coming in."""

    def __init__(self, connection: socket.socket) -> None:
        self.sock = connection
        self.command, self.dataset = bytearray(), bytearray()

    def take(self, control: int, data: bytes) -> None:
        """Add a fragment."""
        if control & raw.COMMAND:
            self.command += data
        else:
            self.dataset += data


def pdvs(body: bytes) -> list[tuple[int, int, bytes]]:
    """Context id, control header and data of each PDV of a P-DATA-TF (PS3.8 9.3.5.1)."""
    found, position = [], 0
    while position < len(body):
        length, context_id, control = struct.unpack_from(">IBB", body, position)
        found.append((context_id, control, body[position + 6 : position + 4 + length]))
        position += 4 + length
    return found


def associate_ac(request: bytes) -> bytes:
    """An A-ASSOCIATE-AC that takes every context with its first transfer syntax, and small PDUs only (PS3.8 9.3.3)."""
    body = request[:68] + raw.item(0x10, raw.DICOM.encode())
    for kind, value in _items(request[68:]):
        if kind == 0x20:
            syntax = next(data for sub, data in _items(value[4:]) if sub == 0x40)
            body += raw.item(0x21, bytes((value[0], 0, 0, 0)) + raw.item(0x40, syntax))
    return raw.pdu(
        raw.RQ + 1, body + raw.item(0x50, raw.item(0x51, struct.pack(">I", _MAX_PDU_BYTES)) + raw.item(0x52, b"1.2.3"))
    )


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found, position = [], 0
    while position < len(data):
        kind, length = struct.unpack_from(">BxH", data, position)
        found.append((kind, data[position + 4 : position + 4 + length]))
        position += 4 + length
    return found


def store_rsp(request: dict[int, bytes]) -> bytes:
    """A C-STORE-RSP with Success (PS3.7 9.3.1.2)."""
    data = raw.element(0x0002, request[0x0002]) + raw.element(0x0100, b"\x01\x80")
    data += raw.element(0x0120, request[0x0110]) + raw.element(0x0800, b"\x01\x01") + raw.element(0x0900, b"\0\0")
    data += raw.element(0x1000, request[0x1000])
    return raw.element(0, struct.pack("<I", len(data))) + data

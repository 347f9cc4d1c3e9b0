"""The raw sender of `scripts/bench receive`: a program of its own, of the standard library, C-STORE as fast as it goes.

Reads one JSON line from standard input (see `Order`), associates, writes `ready`, waits for a line, sends, writes one
JSON line of figures, waits for another line (so that the receiver can be looked at while the associations are open),
and releases. An object is one prepared block of bytes in which only the SOP Instance UID changes; sending it is one
system call and reading the answer another.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field

EXPLICIT = "1.2.840.10008.1.2.1"
CLASSES = {"mr": "1.2.840.10008.5.1.4.1.1.4", "ct": "1.2.840.10008.5.1.4.1.1.2", "mf": "1.2.840.10008.5.1.4.1.1.4.1"}
SHAPES = {"mr": (1, 128, 128), "ct": (1, 512, 512), "mf": (512, 512, 512)}
"""Frames, rows, columns; 16 bits a pixel: 32 KiB, 512 KiB, 256 MiB."""
_UID_ROOT = "1.2.826.0.1.3680043.10.1496"
_UID_LENGTH = 56  # even, so that nothing moves when it changes
_RESPONSE_BYTES = 4096


@dataclass
class Order:
    """What to send. Either `objects` in all or for `seconds`."""

    port: int
    called: str = "RELAYPACS"
    kind: str = "mr"
    associations: int = 1
    per_object: bool = False
    contexts: list[tuple[str, list[str]]] = field(default_factory=list)
    """Proposed behind the one that is used."""
    pdu_bytes: int = 16384
    seconds: float = 1.0
    objects: int = 0
    warm: int = 20
    run: int = 1


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    """A data element in Explicit VR Little Endian (PS3.5 7.1.2)."""
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    head = struct.pack("<HH2s", group, number, vr.encode())
    if vr in ("OB", "OW"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def uid(run: int, association: int, number: int) -> str:
    """A SOP Instance UID that is always as long."""
    return f"{_UID_ROOT}.{10**8 + run}.{100 + association}.{10**9 + number}".ljust(_UID_LENGTH, "0")


def dataset(kind: str, instance: str) -> bytes:
    """A small but whole image object."""
    frames, rows, columns = SHAPES[kind]
    number = struct.Struct("<H")
    elements = [
        element(8, 0x0008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        element(8, 0x0016, "UI", CLASSES[kind].encode()),
        element(8, 0x0018, "UI", instance.encode()),
        element(8, 0x0020, "DA", b"20260101"),
        element(8, 0x0050, "SH", b"BENCH"),
        element(8, 0x0060, "CS", b"CT" if kind == "ct" else b"MR"),
        element(0x10, 0x0010, "PN", b"BENCH^MARK"),
        element(0x10, 0x0020, "LO", b"BENCH"),
        element(0x20, 0x000D, "UI", instance[:40].encode()),
        element(0x20, 0x000E, "UI", (instance[:40] + ".1").encode()),
        element(0x20, 0x0013, "IS", b"1"),
        element(0x28, 0x0002, "US", number.pack(1)),
        element(0x28, 0x0004, "CS", b"MONOCHROME2"),
        *([element(0x28, 0x0008, "IS", str(frames).encode())] if frames > 1 else []),
        element(0x28, 0x0010, "US", number.pack(rows)),
        element(0x28, 0x0011, "US", number.pack(columns)),
        element(0x28, 0x0100, "US", number.pack(16)),
        element(0x28, 0x0101, "US", number.pack(12)),
        element(0x28, 0x0102, "US", number.pack(11)),
        element(0x28, 0x0103, "US", number.pack(0)),
        element(0x7FE0, 0x0010, "OW", bytes(range(256)) * (frames * rows * columns * 2 // 256)),
    ]
    return b"".join(elements)


def _pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def request(order: Order) -> bytes:
    """The A-ASSOCIATE-RQ; context 1 is the one that is used."""
    body = struct.pack(">HH", 1, 0) + order.called.encode().ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, syntaxes) in enumerate([(CLASSES[order.kind], [EXPLICIT]), *order.contexts]):
        value = bytes((2 * number + 1, 0, 0, 0)) + _item(0x30, abstract.encode())
        body += _item(0x20, value + b"".join(_item(0x40, one.encode()) for one in syntaxes))
    return _pdu(1, body + _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.4")))


class Block:
    """The bytes of one C-STORE, and where its UID stands."""

    def __init__(self, order: Order, association: int) -> None:
        self._run, self._association = order.run, association
        instance = uid(order.run, association, 0)
        command = b""
        for number, value in (
            (0x0002, CLASSES[order.kind].encode() + b"\0" * (len(CLASSES[order.kind]) % 2)),
            (0x0100, b"\x01\x00"),
            (0x0110, b"\x01\x00"),
            (0x0700, b"\0\0"),
            (0x0800, b"\0\0"),
            (0x1000, instance.encode()),
        ):
            command += struct.pack("<HHI", 0, number, len(value)) + value
        command = struct.pack("<HHII", 0, 0, 4, len(command)) + command
        parts = [_pdu(4, struct.pack(">IBB", len(command) + 2, 1, 3) + command)]
        data = dataset(order.kind, instance)
        self.dataset_bytes = len(data)
        room = order.pdu_bytes - 6
        for start in range(0, len(data), room):
            piece = data[start : start + room]
            last = 2 if start + room >= len(data) else 0
            parts.append(struct.pack(">BxIIBB", 4, len(piece) + 6, len(piece) + 2, 1, last) + piece)
        self.bytes = bytearray(b"".join(parts))
        first = self.bytes.index(instance.encode())
        self._places = (first, self.bytes.index(instance.encode(), first + 1))

    def next(self, number: int) -> bytearray:
        """The block with the UID of object `number`."""
        instance = uid(self._run, self._association, number).encode()
        for place in self._places:
            self.bytes[place : place + _UID_LENGTH] = instance
        return self.bytes


class Association:
    """One after another: associate, send, release."""

    def __init__(self, order: Order, number: int) -> None:
        self._order, self._request, self._block = order, request(order), Block(order, number)
        self.latencies: list[float] = []
        self.sent = 0
        self._socket = socket.socket()
        if not order.per_object:
            self._connect()

    def _connect(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._order.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(self._request)
        kind, body = self._read_pdu()
        # The answer to context 1 (PS3.8 9.3.3.2) is the first item behind the application context.
        position = 68 + 4 + struct.unpack_from(">H", body, 70)[0]
        if kind != 2 or body[position + 6] != 0 or EXPLICIT.encode() not in body[position : position + 40]:
            raise SystemExit(f"the association was not accepted: PDU type {kind}")

    def _read_pdu(self) -> tuple[int, bytes]:
        data = b""
        while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            more = self._socket.recv(65536)
            if not more:
                raise SystemExit("the receiver closed the connection")
            data += more
        return data[0], data[6:]

    def _store(self) -> None:
        block = self._block.next(self.sent)
        self._socket.sendall(block)
        sent_at = time.perf_counter()
        data = b""
        while len(data) < 6 or len(data) < 6 + int.from_bytes(data[2:6], "big"):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            data += self._socket.recv(_RESPONSE_BYTES)
        self.latencies.append(time.perf_counter() - sent_at)
        # (0000,0900) Status, of length 2, with value 0000
        if b"\0\0\0\x09\x02\0\0\0\0\0" not in data:
            raise SystemExit("an object was not answered with Success")
        self.sent += 1

    def one(self) -> None:
        """Store one object, within an association of its own if so ordered."""
        if not self._order.per_object:
            self._store()
            return
        began = time.perf_counter()
        self._connect()
        self._store()
        self.release()
        self.latencies[-1] = time.perf_counter() - began

    def release(self) -> None:
        """Release and close."""
        self._socket.sendall(_pdu(5, bytes(4)))
        self._read_pdu()
        self._socket.close()

    def run(self, until: float, objects: int) -> None:
        """Store for as long, or so many."""
        while (time.perf_counter() < until) if not objects else (self.sent < objects):
            self.one()


def main() -> None:
    """Do what standard input orders."""
    order = Order(**json.loads(sys.stdin.readline()))
    associations = [Association(order, number) for number in range(order.associations)]
    for _ in range(order.warm):
        for one in associations:
            one.one()
    for one in associations:
        one.sent, one.latencies = (order.warm, []) if not order.objects else (0, [])
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = time.perf_counter(), time.process_time()
    threads = [
        threading.Thread(target=one.run, args=(began + order.seconds, order.objects)) for one in associations[1:]
    ]
    for thread in threads:
        thread.start()
    associations[0].run(began + order.seconds, order.objects)
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    latencies = sorted(latency for one in associations for latency in one.latencies)
    figures = {
        "objects": len(latencies),
        "bytes": len(latencies) * associations[0]._block.dataset_bytes,
        "seconds": seconds,
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)],
        "sender_cpu_seconds": time.process_time() - cpu,
        "sender_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(figures), flush=True)
    sys.stdin.readline()
    if not order.per_object:
        for one in associations:
            one.release()


if __name__ == "__main__":
    main()

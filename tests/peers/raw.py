"""A peer that writes PDUs by hand, so that it can break every rule. It shares no code with what it tests."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Sequence

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DICOM = "1.2.840.10008.3.1.1.1"

RQ, AC, RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, LAST = 1, 2


def item(kind: int, value: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(value)) + value


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """A PDU, whose length may lie."""
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def associate_rq(
    *,
    calling: bytes = b"RAW",
    called: bytes = b"RELAYPACS",
    contexts: Iterable[tuple[int, str, Sequence[str]]] = ((1, CT, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,))),
    version: int = 1,
    application: str = DICOM,
    max_length: int | None = 16384,
    more: bytes = b"",
) -> bytes:
    """An A-ASSOCIATE-RQ; `more` is added to its user information."""
    body = struct.pack(">HH", version, 0) + called.ljust(16)[:16] + calling.ljust(16)[:16] + bytes(32)
    body += item(0x10, application.encode())
    for number, abstract_syntax, transfer_syntaxes in contexts:
        syntaxes = b"".join(item(0x40, one.encode()) for one in transfer_syntaxes)
        body += item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract_syntax.encode()) + syntaxes)
    user = item(0x51, struct.pack(">I", max_length)) if max_length is not None else b""
    body += item(0x50, user + item(0x52, b"1.2.3.4") + more)
    return pdu(RQ, body)


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    """A PDV item."""
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def element(tag: int, value: bytes) -> bytes:
    """A command element (group 0000, Implicit VR Little Endian)."""
    return struct.pack("<HHI", 0, tag, len(value)) + value


def uid(value: str) -> bytes:
    """A UID padded to even length."""
    data = value.encode()
    return data + b"\0" * (len(data) % 2)


def store_rq(
    *, message_id: int | None = 1, sop_class: str = CT, sop_instance: str = "1.2.3", dataset: bool = True
) -> bytes:
    """A C-STORE-RQ command set."""
    data = element(0x0002, uid(sop_class)) if sop_class else b""
    data += element(0x0100, b"\x01\x00")
    if message_id is not None:
        data += element(0x0110, struct.pack("<H", message_id))
    data += element(0x0700, b"\0\0") + element(0x0800, b"\x00\x00" if dataset else b"\x01\x01")
    data += element(0x1000, uid(sop_instance)) if sop_instance else b""
    return element(0, struct.pack("<I", len(data))) + data


def request(field: int, *, message_id: int = 1, sop_class: str = VERIFICATION, dataset: bool = False) -> bytes:
    """Any other request's command set."""
    data = element(0x0002, uid(sop_class)) + element(0x0100, struct.pack("<H", field))
    data += element(0x0110, struct.pack("<H", message_id)) + element(0x0800, b"\0\0" if dataset else b"\x01\x01")
    return element(0, struct.pack("<I", len(data))) + data


def elements(data: bytes) -> dict[int, bytes]:
    """A command set's elements by tag."""
    found = {}
    position = 0
    while position < len(data):
        _, tag, length = struct.unpack_from("<HHI", data, position)
        found[tag] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return found


class Raw:
    """Context manager: a connection to 127.0.0.1, with `first` before TLS if a context for it is given."""

    def __init__(
        self, port: int, *, timeout_seconds: float = 10.0, tls: ssl.SSLContext | None = None, first: bytes = b""
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds)
        self.sock.sendall(first)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send it all."""
        self.sock.sendall(data)

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or fewer at the end."""
        data = b""
        while len(data) < count:
            try:
                more = self.sock.recv(count - len(data))
            except ConnectionResetError:
                break
            if not more:
                break
            data += more
        return data

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU's type and body; (0, b"") when the connection is closed."""
        header = self.read(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", header)
        return kind, self.read(length)

    def is_closed(self) -> bool:
        """Whether the next thing is the peer's close."""
        return self.read(1) == b""

    def associate(self, **what: object) -> int:
        """Send an A-ASSOCIATE-RQ; the type of the PDU that answers."""
        self.send(associate_rq(**what))  # type: ignore[arg-type]
        return self.read_pdu()[0]

    def send_message(self, command: bytes, dataset: bytes | None = None, *, context_id: int = 1) -> None:
        """One message, the plain way: a PDU for the command, PDUs of at most 16 KiB for the dataset."""
        parts = [pdu(DATA, pdv(context_id, COMMAND | LAST, command))]
        if dataset is not None:
            for start in range(0, len(dataset) or 1, 16000):
                last = LAST if start + 16000 >= len(dataset) else 0
                parts.append(pdu(DATA, pdv(context_id, last, dataset[start : start + 16000])))
        self.send(b"".join(parts))

    def read_command(self) -> dict[int, bytes]:
        """The next message's command set, which must be a P-DATA-TF."""
        data = b""
        while True:
            kind, body = self.read_pdu()
            assert kind == DATA, f"PDU type {kind}, {body.hex()}"
            position = 0
            while position < len(body):
                length, _, control = struct.unpack_from(">IBB", body, position)
                data += body[position + 6 : position + 4 + length]
                position += 4 + length
                if control & LAST:
                    return elements(data)

    def read_status(self) -> int:
        """The status of the response that comes next."""
        return int.from_bytes(self.read_command()[0x0900], "little")

    def store(self, dataset: bytes | None, *, context_id: int = 1, **what: object) -> int:
        """C-STORE; the status."""
        command = store_rq(dataset=dataset is not None, **what)  # type: ignore[arg-type]
        self.send_message(command, dataset, context_id=context_id)
        return self.read_status()

    def release(self) -> None:
        """Ask for release, and close when it is granted."""
        self.send(pdu(RELEASE_RQ, bytes(4)))
        assert self.read_pdu()[0] == RELEASE_RP
        self.sock.close()

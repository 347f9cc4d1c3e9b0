"""A stand-in for misbehaving DIMSE peers: accepts an association byte by byte, then does what a test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress

from relaypacs.dicom.command import CommandSet, decode_command, encode_response
from relaypacs.dicom.message import encode_message
from relaypacs.dicom.pdu import abort_pdu


class Connection:
    """One accepted association, seen from the peer."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.socket = sock
        self.number = number
        self.file = sock.makefile("rb")

    def read_pdu(self) -> tuple[int, bytes]:
        """The next PDU: its type and body. (0, b"") at the end."""
        head = self.file.read(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self.file.read(length)

    def read_object(self) -> tuple[int, CommandSet | None, int]:
        """A message whole: context id, command set and dataset length; no command set when anything else came."""
        command, length, context_id = b"", 0, 0
        while True:
            kind, body = self.read_pdu()
            if kind != 4:
                return context_id, None, length
            at = 0
            while at < len(body):
                size, context_id, control = struct.unpack_from(">IBB", body, at)
                data = body[at + 6 : at + 4 + size]
                at += 4 + size
                if control & 1:
                    command += data
                else:
                    length += len(data)
                if control == 2 or (control == 3 and not decode_command(command).has_dataset):
                    return context_id, decode_command(command), length

    def accept(self, max_pdu_bytes: int | None = 16384, operations: int | None = None, informs: bytes = b"") -> None:
        """Read A-ASSOCIATE-RQ and accept every context with its first transfer syntax (PS3.8 9.3.3); grant a window
        of `operations` if given (PS3.7 D.3.3.3). `informs`: more user information; None is no Maximum Length."""
        _, body = self.read_pdu()
        answer = body[:68] + _item(0x10, b"1.2.840.10008.3.1.1.1")
        at = 68
        while at < len(body):
            kind, length = struct.unpack_from(">BxH", body, at)
            if kind == 0x20:
                item = body[at + 4 : at + 4 + length]
                inner = 4
                while item[inner] != 0x40:
                    inner += 4 + struct.unpack_from(">H", item, inner + 2)[0]
                size = struct.unpack_from(">H", item, inner + 2)[0]
                answer += _item(0x21, item[:1] + b"\0\0\0" + item[inner : inner + 4 + size])
            at += 4 + length
        user = b"" if max_pdu_bytes is None else _item(0x51, struct.pack(">I", max_pdu_bytes))
        user += _item(0x52, b"1.2.3.4") + informs
        if operations is not None:
            assert b"\x53\x00\x00\x04" in body
            user += _item(0x53, struct.pack(">HH", operations, 1))
        answer += _item(0x50, user)
        self.send(struct.pack(">BxI", 2, len(answer)) + answer)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def send_message(self, context_id: int, command: bytes) -> None:
        """Send a DIMSE message without a dataset."""
        self.send(encode_message(context_id, command, 16384))

    def store(self, status: int = 0) -> bool:
        """Take one object and answer it properly; False when no object came."""
        context_id, command, _ = self.read_object()
        if command is None:
            return False
        self.send_message(context_id, encode_response(command, status))
        return True

    def abort(self) -> None:
        """Send A-ABORT."""
        self.send(abort_pdu(0, 0))


class DimsePeer:
    """Context manager: `serve(Connection)` runs in a thread per connection; the connection is closed after it."""

    def __init__(self, serve: Callable[[Connection], None]) -> None:
        self.connections = 0
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._run, args=(Connection(sock, self.connections),))
            self._threads.append(thread)
            thread.start()

    def _run(self, connection: Connection) -> None:
        with suppress(OSError):
            self._serve(connection)
        connection.file.close()
        connection.socket.close()

    def __enter__(self) -> DimsePeer:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value

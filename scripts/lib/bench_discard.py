"""What `scripts/bench receive` sends to when nothing shall be stored, to know the limits.

    python scripts/lib/bench_discard.py PORT lane|bare

`lane`: RelayPACS's own edge, negotiation and lane, with a spool that forgets: the protocol's limit. `bare`: accepts,
answers every association request with a canned A-ASSOCIATE-AC, then skips from PDU to PDU by their lengths and
answers each last fragment of a dataset with a canned C-STORE-RSP: the raw sender's limit. Two processes share the port.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from relaypacs import log
from relaypacs.config.model import Caller, Config, Receive
from relaypacs.model import Committed, ObjectMeta
from relaypacs.node.supervisor import Stop
from relaypacs.receive import process

_AT = Committed("0" * 32, 0, 0, 0)


class _Append:
    """An object that is only counted."""

    dataset_length = 0

    def write(self, fragments: Sequence[bytes | memoryview]) -> None:
        """Count it."""
        self.dataset_length += sum(map(len, fragments))

    def commit(self, last: Sequence[bytes | memoryview] = ()) -> Committed:
        """Nothing to do."""
        return _AT

    def abandon(self) -> None:
        """Nothing to do."""


class _Nowhere:
    """A spool that forgets."""

    def begin(self, meta: ObjectMeta) -> _Append:
        """A new object."""
        return _Append()

    def append_event(self, kind: str, time: float, body: Mapping[str, object]) -> Committed:
        """Nothing to do."""
        return _AT

    def refusal(self) -> None:
        """Never."""


def lane(listener: socket.socket) -> None:
    """Serve as a receive process does."""
    log.setup(level="warning", json_lines=True, service="discard")
    stop = Stop()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    config = Config(receive=Receive(), caller=(Caller(ae_title="*"),))
    process.run(config, listeners=[listener], spool=_Nowhere(), stop=stop)  # type: ignore[arg-type]


def bare(listener: socket.socket) -> None:
    """Serve without knowing anything."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=_skip, args=(sock,), daemon=True).start()


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _skip(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    syntax = _item(0x40, b"1.2.840.10008.1.2.1")
    items = _item(0x10, b"1.2.840.10008.3.1.1.1") + _item(0x21, bytes((1, 0, 0, 0)) + syntax)
    user = _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3"))
    body = struct.pack(">HH", 1, 0) + bytes(64) + items + user
    response = b"".join(
        struct.pack("<HHIH", 0, number, 2, value) for number, value in ((0x0100, 0x8001), (0x0800, 0x0101), (0x0900, 0))
    )
    answer = struct.pack(">BxIIBB", 4, len(response) + 6, len(response) + 2, 1, 3) + response
    buffer = memoryview(bytearray(1 << 18))
    start = end = skip = 0
    while True:
        # What is left of a header goes to the front; `skip` bytes of a PDU that began are still to come.
        buffer[: end - start] = bytes(buffer[start:end])
        start, end = 0, end - start
        count = sock.recv_into(buffer[end:])
        if count == 0:
            return
        end += count
        while True:
            step = min(skip, end - start)
            start += step
            skip -= step
            if skip or end - start < 12:
                if not skip and end - start >= 10 and buffer[start] == 5:
                    sock.sendall(struct.pack(">BxI4x", 6, 4))
                    start += 10
                break
            skip = 6 + int.from_bytes(buffer[start + 2 : start + 6], "big")
            if buffer[start] == 1:
                sock.sendall(struct.pack(">BxI", 2, len(body)) + body)
            elif buffer[start + 11] == 2:
                while skip > end - start:  # the answer comes behind the last byte
                    skip -= end - start
                    start, end = 0, sock.recv_into(buffer)
                    if end == 0:
                        return
                sock.sendall(answer)


def main() -> None:
    """Serve until SIGTERM."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=512)
    os.fork()
    (bare if sys.argv[2] == "bare" else lane)(listener)


if __name__ == "__main__":
    main()

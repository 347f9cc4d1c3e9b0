"""A stand-in for a DICOMweb service that keeps nothing but counts everything: each part that came whole (PS3.18 10.5).

Written by hand, so that it shares no code with the sender under test. It stores parts as it reads them, so what came
whole in a request that broke off has arrived, though nobody is told: as with a real service, only the answer's listing
is a promise.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from io import BufferedReader

from tests.crash.harness.counting import CountingPeer

_BOUNDARY = re.compile(rb'boundary="?([^\s";]+)')


class WebRecorder(CountingPeer):
    """See `CountingPeer`."""

    def __init__(self, *, delay_seconds: float = 0.0) -> None:
        super().__init__(delay_seconds=delay_seconds)
        self.url = f"http://127.0.0.1:{self.port}/dicom-web"

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                while self._request(connection, stream):
                    pass
        except OSError:
            pass

    def _request(self, connection: socket.socket, stream: BufferedReader) -> bool:
        """Serve one request; whether there may be another."""
        if not stream.readline().startswith(b"POST /dicom-web/studies "):
            return False
        headers: dict[bytes, bytes] = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        boundary = _BOUNDARY.search(headers[b"content-type"])
        assert boundary is not None
        length = int(headers[b"content-length"])
        body = _read(stream, length)
        stored = self._store(body, boundary[1])
        if len(body) < length:
            self._record_cut()
            return False
        time.sleep(self._delay_seconds)
        answer = json.dumps(
            {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]}}
        ).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: {len(answer)}\r\n\r\n"
        connection.sendall(head.encode() + answer)
        return True

    def _store(self, body: bytes, boundary: bytes) -> list[str]:
        """Record every part that is followed by a boundary; returns their SOP Instance UIDs."""
        stored = []
        # RFC 2046 5.1.1: what stands before the first boundary and behind the last is no part.
        for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:-1]:
            file = part.partition(b"\r\n\r\n")[2]
            sop_instance, dataset = split_file(file)
            stored.append(sop_instance)
            self._record(sop_instance, dataset)
        return stored


def _read(stream: BufferedReader, length: int) -> bytes:
    """Up to `length` bytes: fewer where the connection ends."""
    data = bytearray()
    try:
        while len(data) < length and (more := stream.read1(min(length - len(data), 1 << 18))):
            data += more
    except OSError:
        pass
    return bytes(data)


def split_file(file: bytes) -> tuple[str, bytes]:
    """(0002,0003) and the dataset of a Part 10 file (PS3.10 7.1: Explicit VR Little Endian, the group length first)."""
    assert file[128:132] == b"DICM"
    end = 144 + struct.unpack_from("<I", file, 140)[0]
    position, sop_instance = 144, ""
    while position < end:
        group, number, vr, length = struct.unpack_from("<HH2sH", file, position)
        position += 8
        if vr in (b"OB", b"UN"):
            length = struct.unpack_from("<I", file, position)[0]
            position += 4
        if (group, number) == (0x0002, 0x0003):
            sop_instance = file[position : position + length].rstrip(b"\0").decode()
        position += length
    return sop_instance, file[end:]

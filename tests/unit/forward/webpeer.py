"""A stand-in for DICOMweb peers that can't be installed here: answers STOW-RS requests as a test says."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from relaypacs.dicom.part10 import read_file_head

_DRIP_SECONDS = 0.1


@dataclass
class Request:
    """One request as the peer saw it: `uids` of its parts, in order, and the parts' files."""

    path: str
    headers: Mapping[str, str]
    uids: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)


@dataclass
class Reply:
    """What to answer. `cut`: close the connection without any answer; `silent`: keep it, and say nothing; `drip`: a
    byte of the body at a time; `endless_head`: header after header; `endless`: behind the body, sent in chunks, its
    first line, then its last one again and again."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False
    drip: bool = False
    endless_head: bool = False
    endless: bytes = b""


def module(stored: Sequence[str] = (), failed: Mapping[str, int | None] | None = None, others: int = 0) -> bytes:
    """A Store Instances Response Module in DICOM JSON (PS3.18 I.2)."""

    def item(uid: str, reason: int | None = None) -> dict[str, object]:
        one: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
        if reason is not None:
            one["00081197"] = {"vr": "US", "Value": [reason]}
        return one

    found: dict[str, object] = {"00081190": {"vr": "UR", "Value": ["http://x/"]}}
    found["00081199"] = {"vr": "SQ", "Value": [item(uid) for uid in stored]} if stored else {"vr": "SQ"}
    found["00081198"] = {"vr": "SQ", "Value": [item(uid, reason) for uid, reason in (failed or {}).items()]}
    if others:
        found["0008119A"] = {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}] * others}
    return json.dumps(found).encode()


class WebPeer:
    """Context manager: listens on `url`; `answer(Request) -> Reply` decides; `requests` holds what came."""

    def __init__(self, answer: Callable[[Request], Reply]) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.closing = threading.Event()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                peer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.path, dict(self.headers.items()), *_parts(body, self.headers["Content-Type"]))
                peer.requests.append(request)
                self._send(answer(request))

            def do_GET(self) -> None:
                request = Request(self.path, dict(self.headers.items()))
                peer.requests.append(request)
                self._send(answer(request))

            def _send(self, reply: Reply) -> None:
                if reply.cut:
                    self.close_connection = True
                    return
                if reply.silent:
                    peer.closing.wait()
                    return
                self.send_response(reply.status)
                while reply.endless_head and not peer.closing.wait(_DRIP_SECONDS):
                    self.send_header("X-More", "and more")
                    self.flush_headers()
                if reply.endless:
                    self._never_end(reply)
                    return
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for start in range(len(reply.body) if reply.drip else 0):
                    self.wfile.write(reply.body[start : start + 1])
                    if peer.closing.wait(_DRIP_SECONDS):
                        return
                if not reply.drip:
                    self.wfile.write(reply.body)

            def _never_end(self, reply: Reply) -> None:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                first, *rest = reply.endless.splitlines(keepends=True)
                self.wfile.write(b"%x\r\n%b\r\n%b" % (len(reply.body), reply.body, first))
                with suppress(OSError):
                    while not peer.closing.wait(_DRIP_SECONDS):
                        self.wfile.write(rest[-1] if rest else first)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/rs"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> WebPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _parts(body: bytes, content_type: str) -> tuple[list[str], list[bytes]]:
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    assert boundary is not None
    uids, files = [], []
    for part in body.split(b"--" + boundary[1].encode())[1:-1]:
        file = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        uids.append(read_file_head(file[:65536], file_length=len(file)).sop_instance_uid)
        files.append(file)
    return uids, files

"""A stand-in for object storage in trouble: an HTTP proxy before the real one that answers badly when told to.

Not a peer of the field: what it does when not told is pass everything on, byte for byte.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.peers.ports import free_port

_ERRORS = {
    "slowdown": (503, "SlowDown"),
    "no-bucket": (404, "NoSuchBucket"),
    "archived": (403, "InvalidObjectState"),
    "denied": (403, "AccessDenied"),
    "skewed": (403, "RequestTimeTooSkewed"),
}


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    fault: str


class FaultyS3:
    """Context manager, listening on `endpoint`, in front of `port`.

    Faults (`fail`): `slow` (waits before it passes a request on), `slowdown` (503), `no-bucket` (404), `archived`,
    `denied` and `skewed` (403), `reset` (the connection is reset in the middle of the body of a PUT, or of the answer's
    to a GET), `lost-answer` (passed on, then the connection is closed), `flip` (a byte of a GET's answer is another),
    `upload-over` (passed on, then 404 as to who completes an upload again).
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.requests: list[Asked] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._fault, self._methods, self._left, self._seconds = "", ("PUT", "POST", "GET", "HEAD"), 0, 0.0
        self._path = ""

    def fail(self, fault: str, *methods: str, times: int = 1 << 30, seconds: float = 5.0, path: str = "") -> None:
        """Do so to the next `times` requests of these methods (none: all) with `path` in theirs; `seconds` is how long
        `slow` waits."""
        with self._lock:
            self._path = path
            self._fault, self._left, self._seconds = fault, times, seconds
            self._methods = methods or ("PUT", "POST", "GET", "HEAD", "DELETE")

    def heal(self) -> None:
        """Pass everything on again."""
        self.fail("", times=0)

    def __enter__(self) -> FaultyS3:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                with proxy._lock:
                    proxy.connections += 1
                super().setup()

            def log_message(self, *_: object) -> None:
                """Nothing."""

            def do_any(self) -> None:
                with suppress(OSError):  # who asked has gone
                    proxy._serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that are killed or reset are what this is for."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: BaseHTTPRequestHandler) -> str:
        with self._lock:
            meant = request.command in self._methods and self._path in request.path
            fault = self._fault if self._left > 0 and meant else ""
            self._left -= 1 if fault else 0
            self.requests.append(Asked(request.command, request.path, dict(request.headers), fault))
            return fault

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        fault = self._take(request)
        length = int(request.headers.get("Content-Length", 0))
        if fault == "reset" and request.command == "PUT":
            request.rfile.read(length // 2)
            _reset(request)
            return
        body = request.rfile.read(length)
        if fault == "slow":
            time.sleep(self._seconds)
        if fault in _ERRORS:
            _refuse(request, *_ERRORS[fault])
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self._upstream, timeout=60)
        try:
            upstream.request(request.command, request.path, body, dict(request.headers))
            answer = upstream.getresponse()
            headers, content = dict(answer.getheaders()), answer.read()
        except (OSError, http.client.HTTPException):
            _reset(request)
            return
        finally:
            upstream.close()
        if fault == "lost-answer":
            _reset(request)
        elif fault == "upload-over":
            _refuse(request, 404, "NoSuchUpload")
        elif fault == "reset":
            _answer(request, answer.status, headers, content, sent=len(content) // 2)
            _reset(request)
        elif fault == "flip" and content:
            _answer(request, answer.status, headers, content[:-1] + bytes((content[-1] ^ 1,)))
        else:
            _answer(request, answer.status, headers, content)


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    text = f"<Error><Code>{code}</Code><Message>stand-in</Message></Error>".encode()
    _answer(request, status, {"Content-Type": "application/xml"}, text)


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, sent: int | None = None
) -> None:
    request.send_response_only(status)
    length = next((value for name, value in headers.items() if name.lower() == "content-length"), str(len(content)))
    for name, value in headers.items():
        if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
            request.send_header(name, value)
    request.send_header("Content-Length", length if request.command == "HEAD" else str(len(content)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content[:sent] if sent is not None else content)
        request.wfile.flush()


def _reset(request: BaseHTTPRequestHandler) -> None:
    """End the connection with RST."""
    time.sleep(0.05)  # what was sent before goes out first
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.close_connection = True
    request.connection.close()

"""One HTTP/1.1 connection to a DICOMweb destination: streamed requests, bounded answers.

Redirects are never followed, TLS is always verified, an answer is never read beyond its limit or its time. What fails
is `ConnectFailed` (nothing was sent) or `ExchangeFailed`, each with a sentence; HTTP statuses are values.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import cast

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url

from relaypacs.config.secrets import Credentials
from relaypacs.errors import RelayPacsError
from relaypacs.policy.outcome import unreachable
from relaypacs.upper.tls import ClientTls, TlsFailed

_READ_BYTES = 65536
_LONGEST_RETRY_AFTER_SECONDS = 3600.0


class ConnectFailed(RelayPacsError):
    """No connection; nothing was sent."""


class ExchangeFailed(RelayPacsError):
    """The connection broke or was silent during a request: what the destination did with it can't be known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. `body` is None where it was too long, compressed, or broke off."""

    status: int
    body: bytes | None
    retry_after_seconds: float = 0.0


class HttpPeer:
    """The connection, kept open between requests. For one thread."""

    def __init__(
        self,
        url: str,
        credentials: Callable[[], Credentials],
        *,
        connect_timeout_seconds: float,
        response_timeout_seconds: float,
        tls: ClientTls | None = None,
        renew: Callable[[str], bool] | None = None,
    ) -> None:
        """`credentials` says what to show, at each request. `renew(token)`: that one was answered with 401; whether
        `credentials` now gives another. `tls`: whom to trust and what to show (none: as the system does)."""
        where = parse_url(url)
        self._https = where.scheme == "https"
        self._host = (where.host or "").strip("[]")
        self._port = where.port or (443 if self._https else 80)
        self._path = (where.path or "").rstrip("/")
        self._credentials = credentials
        self._connect_timeout_seconds = connect_timeout_seconds
        self._response_timeout_seconds = response_timeout_seconds
        self._tls = tls
        self._renew = renew
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        """The connection's, also once it says that it closes and only its answer has it."""

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        body: Callable[[], Iterable[bytes | memoryview]] | None = None,
        limit_bytes: int,
    ) -> Answer:
        """One request to the destination's URL + `path`. `headers` has the Content-Length of what `body()` yields.

        A kept connection that turns out to be closed by the peer is replaced once (storing is idempotent).
        Raises ConnectFailed and ExchangeFailed.
        """
        shown = self._credentials()
        answer = self._request(method, path, _headers(shown, headers), body, limit_bytes)
        if answer.status == 401 and shown.token and self._renew is not None and self._renew(shown.token):
            answer = self._request(method, path, _headers(self._credentials(), headers), body, limit_bytes)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Callable[[], Iterable[bytes | memoryview]] | None,
        limit_bytes: int,
    ) -> Answer:
        kept = self._connection is not None and self._connection.is_connected
        try:
            connection = self._connect()
            try:
                response = self._exchange(connection, method, path, headers, body)
            except (ConnectionError, http.client.RemoteDisconnected):
                if not kept:
                    raise
                self.close()
                response = self._exchange(self._connect(), method, path, headers, body)
            return self._read(response, limit_bytes)
        except TimeoutError:
            raise self._failed("was silent for too long during a request: check its load") from None
        except (OSError, HTTPError, http.client.HTTPException, ValueError) as error:
            raise self._failed(f"broke the exchange off ({type(error).__name__}): see its log") from None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the URL."""
        return self._host, self._port

    def connect(self) -> None:
        """Have a connection, with TLS if the URL is https. Raises ConnectFailed."""
        self._connect()

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._socket = None

    def _failed(self, sentence: str) -> ExchangeFailed:
        self.close()
        return ExchangeFailed(f"destination {sentence}")

    def _connect(self) -> HTTPConnection:
        if self._connection is not None and self._connection.is_connected:
            return self._connection
        self.close()
        if self._https:
            connection: HTTPConnection = HTTPSConnection(
                self._host, self._port, timeout=self._connect_timeout_seconds, ssl_context=self._tls_context()
            )
        else:
            connection = HTTPConnection(self._host, self._port, timeout=self._connect_timeout_seconds)
        try:
            connection.connect()
        except (OSError, HTTPError) as error:
            connection.close()
            raise ConnectFailed(unreachable(_cause(error))) from None
        # From here on it bounds each read and each piece that is sent.
        connection.timeout = self._response_timeout_seconds
        self._connection, self._socket = connection, connection.sock
        return connection

    def _exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Callable[[], Iterable[bytes | memoryview]] | None,
    ) -> BaseHTTPResponse:
        try:
            # http.client sends any buffer; urllib3's annotation knows bytes and str only.
            pieces = cast("Iterable[bytes] | None", body() if body else None)
            connection.request(method, self._path + path, body=pieces, headers=headers, preload_content=False)
        except ConnectionError:
            # The peer may have answered (413, 401) and closed before it had read everything.
            try:
                return connection.getresponse()
            except (OSError, HTTPError, http.client.HTTPException):
                pass
            raise
        # Its first byte in time, and the rest of its head in as much again, whatever comes before it (100 Continue).
        with _cut_after(2 * self._response_timeout_seconds, self._socket):
            return connection.getresponse()

    def _read(self, response: BaseHTTPResponse, limit_bytes: int) -> Answer:
        body = bytearray()
        whole = response.headers.get("Content-Encoding", "identity").lower() == "identity"
        try:
            # All of it in time, also what is no piece of the body: the length of a chunk, trailers.
            with _cut_after(self._response_timeout_seconds, self._socket):
                while whole and (chunk := response.read1(_READ_BYTES, decode_content=False)):
                    body += chunk
                    whole = len(body) <= limit_bytes
        except (OSError, HTTPError, http.client.HTTPException):
            whole = False
        if not whole or response.headers.get("Connection", "").lower() == "close":
            self.close()
        return Answer(
            response.status,
            bytes(body) if whole else None,
            _retry_after(response.headers.get("Retry-After", ""), time.time()),
        )

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            return ssl.create_default_context()
        try:
            return self._tls.context()
        except TlsFailed as problem:
            raise ConnectFailed(f"no TLS with the destination: {problem}") from None


def _headers(shown: Credentials, headers: dict[str, str]) -> dict[str, str]:
    found = {"Accept-Encoding": "identity", "User-Agent": "RelayPACS", **headers}
    if shown.token:
        found["Authorization"] = f"Bearer {shown.token}"
    elif shown.username:
        pair = base64.b64encode(f"{shown.username}:{shown.password}".encode()).decode()
        found["Authorization"] = f"Basic {pair}"
    return found


@contextlib.contextmanager
def _cut_after(seconds: float, sock: socket.socket | None) -> Iterator[None]:
    """Cut the connection if this takes longer than `seconds` in all; TimeoutError then."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        if sock is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # beneath TLS, whose own state has another thread

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPError, http.client.HTTPException, ValueError):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
    if late.is_set():  # headers may seem to end where the connection does
        raise TimeoutError


def _cause(error: Exception) -> Exception:
    """The operating system's error behind urllib3's."""
    if isinstance(error, NewConnectionError | NameResolutionError):
        return error.__cause__ if isinstance(error.__cause__, Exception) else error
    return TimeoutError() if isinstance(error, ConnectTimeoutError) else error


def _retry_after(value: str, now: float) -> float:
    """Retry-After in seconds, from seconds or a date (RFC 9110 10.2.3); nonsense is 0: the pause grows by itself."""
    seconds = 0.0
    if value.isascii() and value.isdigit():
        seconds = float(value[:10])
    else:
        with contextlib.suppress(ValueError, OverflowError):
            seconds = parsedate_to_datetime(value).timestamp() - now
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_SECONDS)

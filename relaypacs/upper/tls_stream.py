"""An association's connection over TLS: what `upper.stream.Stream` is over TCP, with a `Channel` in between.

Knows what TLS changes: bytes that were received hide from `poll`, a record is decrypted whole or not at all, control
records bring nothing to read, and sending needs plaintext in full records. The socket is read in large pieces,
whatever the records are. Fails as `Stream` does; what TLS itself finds is a `TlsFailed`, an OSError.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Sequence

from relaypacs.upper.stream import Stream
from relaypacs.upper.tls import RECORD_BYTES, Channel, TlsFailed, speaks_tls

_RECEIVED_BYTES = 65536
"""Ciphertext read at once; what an idle association keeps of OpenSSL's buffer is little more."""
_SENT_BYTES = 4 * RECORD_BYTES
"""Plaintext encrypted at once: full records."""
_ALERT_RECORD = 0x15
_Buffer = bytes | bytearray | memoryview


class TlsStream(Stream):
    """A connected TCP socket whose handshake is done. One thread reads; any thread may write."""

    def __init__(self, sock: socket.socket, channel: Channel, *, send_timeout_seconds: float) -> None:
        """As `Stream`; `channel` may have bytes that came with the handshake."""
        super().__init__(sock, send_timeout_seconds=send_timeout_seconds)
        self._channel = channel
        self._ahead = b""
        self._failed: OSError | None = None
        self._ended = False

    def wait_readable(self, timeout_seconds: float, stop_fd: int = -1) -> bool:
        """Wait until a read gives plaintext, the peer's close or an error (True); as `Stream` otherwise."""
        deadline = time.monotonic() + timeout_seconds
        while not self._look_ahead():
            if not super().wait_readable(deadline - time.monotonic(), stop_fd):
                return False
            self._receive()
        return True

    def recv_patient(self, view: memoryview) -> int:
        """Read what is there, waiting at most a second: the bytes read, 0 at the peer's close, -1 for none yet."""
        count = self._take(view)
        if count >= 0 or not self._receive():
            return count
        return self._take(view)

    def _receive(self) -> bool:
        """Read from the socket once, for at most a second; whether that told anything. Raises OSError."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            data = self._socket.recv(_RECEIVED_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._channel.feed(data)
        else:
            self._ended = True
        return True

    def _take(self, view: memoryview) -> int:
        """Plaintext that is already here; 0 at the end, -1 if there is none."""
        if self._ahead:
            count = min(len(view), len(self._ahead))
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            return count
        if self._failed is not None:
            raise self._failed
        if self._channel.exhausted:
            return 0 if self._ended else -1
        try:
            count = self._channel.read_into(view)
        except TlsFailed as error:
            self._failed = error
            with contextlib.suppress(OSError):
                self._answer()
            raise
        self._answer()
        return 0 if count < 0 and self._ended else count

    def _look_ahead(self) -> bool:
        """Whether a read gives something at once: decrypts up to a record to find out."""
        if self._ahead or self._ended or self._failed is not None:
            return True
        if self._channel.exhausted:
            return False
        record = bytearray(RECORD_BYTES)
        try:
            count = self._take(memoryview(record))
        except OSError as error:
            self._failed = error
            return True
        if count > 0:
            self._ahead = bytes(record[:count])
        self._ended = self._ended or count == 0
        return count >= 0

    def _answer(self) -> None:
        """Send what TLS itself has to say to what came, such as an alert (RFC 8446 6)."""
        if self._channel.has_output:
            with self._lock:
                self._send_raw(self._channel.output())

    def send(self, data: _Buffer) -> None:
        """Send all of it. TimeoutError when the peer takes nothing for the send timeout, OSError when it is gone."""
        self.send_groups(((memoryview(data),),))

    def send_groups(self, groups: Iterable[Sequence[bytes | memoryview]]) -> None:
        """Send each group's buffers in full records but for its last; fails as `send`. All of a group is with the
        kernel before the next is asked for."""
        with self._lock:
            for group in groups:
                parts: list[memoryview] = []
                size = 0
                for buffer in group:
                    view = memoryview(buffer)
                    while size + len(view) >= _SENT_BYTES:
                        parts.append(view[: _SENT_BYTES - size])
                        view = view[_SENT_BYTES - size :]
                        self._send_raw(self._channel.encrypt(b"".join(parts)))
                        parts, size = [], 0
                    if view:
                        parts.append(view)
                        size += len(view)
                if parts:
                    self._send_raw(self._channel.encrypt(b"".join(parts)))

    def _send_raw(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._socket.send(view) :]
        except BlockingIOError:
            raise TimeoutError("the peer takes no data") from None
        except OSError:
            self._hear_why()
            raise

    def _hear_why(self) -> None:
        """Raise what the peer's alert says, if it ended the connection with one that has been received."""
        with contextlib.suppress(OSError):
            self._receive()
            self._look_ahead()
        if isinstance(self._failed, TlsFailed):
            raise self._failed

    def ended_early(self) -> TlsFailed:
        """Why the peer ended the connection at once: with TLS 1.3 it judges our certificate after the handshake."""
        if isinstance(self._failed, TlsFailed):
            return self._failed
        return TlsFailed(
            "it closed the connection right after the TLS handshake: if it requires a certificate of ours, "
            "set `tls_certificate` and `tls_key`; if it has one, give it our CA there"
        )

    def wait_closed(self, timeout_seconds: float) -> bool:
        """Wait for the peer's close and throw away what it still sends; whether it closed in time."""
        deadline = time.monotonic() + timeout_seconds
        scratch = memoryview(bytearray(RECORD_BYTES))
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.wait_readable(left)
                if self.recv_patient(scratch) == 0:
                    return True
        except (OSError, ValueError):
            pass
        return False

    def interrupt(self, last_words: bytes) -> None:
        """From another thread: say something if nobody is sending, and make every read and write end now."""
        self._say(lambda: self._channel.encrypt(last_words))
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say so to the peer (close_notify), as far as that takes no waiting, and close; idempotent."""
        if self._open and not self._ended:
            self._say(self._channel.goodbye)
        super().close()

    def _say(self, words: Callable[[], bytes]) -> None:
        with contextlib.suppress(OSError):
            if self._lock.acquire(blocking=False):
                try:
                    self._socket.send(words(), socket.MSG_DONTWAIT)
                finally:
                    self._lock.release()


def begin(sock: socket.socket, channel: Channel, timeout_seconds: float) -> None:
    """Do the requestor's handshake on a connected socket. Raises `TlsFailed`, TimeoutError or another OSError."""
    deadline = time.monotonic() + timeout_seconds
    first = True
    while True:
        try:
            done = channel.handshake()
        finally:
            sock.sendall(channel.output())
        if done:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the TLS handshake was not done in time")
        sock.settimeout(left)
        data = sock.recv(_RECEIVED_BYTES)
        if not data:
            raise TlsFailed("it closed the connection during the TLS handshake: is this a TLS port?")
        if first and not speaks_tls(data) and data[0] != _ALERT_RECORD:
            raise TlsFailed("it does not speak TLS on this port: correct `port`, or set `tls = false`")
        first = False
        channel.feed(data)

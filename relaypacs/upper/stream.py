"""One TCP connection of an association: blocking reads and writes with deadlines, tuned for request and answer.

Used by `upper.reader` and by the send lane. TCP_NODELAY always; TCP_QUICKACK is re-armed before every read, since it
is not sticky and a peer with Nagle on (DCMTK, so Orthanc) otherwise waits 40 ms for our delayed ACK. A read is one
system call while data flows (the kernel's SO_RCVTIMEO) and `poll` after a second of silence, never `select`: any file
descriptor number works. Times out with TimeoutError, breaks with OSError; a peer's close is 0 bytes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence

from relaypacs.failpoint import reach

PATIENCE_SECONDS = 1.0
"""How long a read blocks in the kernel before it is handed to `poll` with its exact deadline."""
_GATHER = 1024  # buffers per sendmsg: IOV_MAX
_Buffer = bytes | bytearray | memoryview


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


class Stream:
    """A connected TCP socket. One thread reads; any thread may write."""

    def __init__(self, sock: socket.socket, *, send_timeout_seconds: float) -> None:
        """Take over `sock`. `send_timeout_seconds`: longest time in which the peer takes no byte of what we send."""
        sock.settimeout(None)
        self._socket = sock
        self._lock = threading.Lock()
        self._open = True
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(PATIENCE_SECONDS))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_timeout_seconds))

    @property
    def is_open(self) -> bool:
        """False once `close` was called."""
        return self._open

    def fileno(self) -> int:
        """The file descriptor, -1 once closed."""
        return self._socket.fileno()

    def wait_readable(self, timeout_seconds: float, stop_fd: int = -1) -> bool:
        """Wait until there is something to read (True) or `stop_fd` is readable (False). TimeoutError after that."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if stop_fd >= 0:
            poll.register(stop_fd, select.POLLIN)
        ready = poll.poll(max(0.0, timeout_seconds) * 1000)
        if not ready:
            raise TimeoutError("the peer is silent")
        return any(number != stop_fd for number, _ in ready)

    def readable_now(self) -> bool:
        """Whether a read would return at once."""
        try:
            return self.wait_readable(0)
        except (TimeoutError, OSError, ValueError):
            return False

    def recv_patient(self, view: memoryview) -> int:
        """Read what is there, waiting at most a second: the bytes read, 0 at the peer's close, -1 in silence."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            return self._socket.recv_into(view)
        except BlockingIOError:
            return -1

    def recv_into(self, view: memoryview, timeout_seconds: float) -> int:
        """Read at least one byte: the bytes read, or 0 at the peer's close. TimeoutError after silence."""
        started = time.monotonic()
        if timeout_seconds < PATIENCE_SECONDS:
            self.wait_readable(timeout_seconds)
        while True:
            count = self.recv_patient(view)
            if count >= 0:
                return count
            self.wait_readable(timeout_seconds - (time.monotonic() - started))

    def send(self, data: _Buffer) -> None:
        """Send all of it. TimeoutError when the peer takes nothing for the send timeout, OSError when it is gone."""
        with self._lock:
            try:
                sent = self._socket.send(data)
                if sent == len(data):
                    return
                view = memoryview(data)
                while sent < len(data):
                    sent += self._socket.send(view[sent:])
            except BlockingIOError:
                raise TimeoutError("the peer takes no data") from None

    def send_groups(self, groups: Iterable[Sequence[bytes | memoryview]]) -> None:
        """Send each group's buffers, gathered, without joining them; fails as `send`. All of a group is with the
        kernel before the next is asked for."""
        with self._lock:
            try:
                for number, group in enumerate(groups):
                    if number:
                        reach("stream.mid-send")
                    for start in range(0, len(group), _GATHER):
                        self._send_gathered(group[start : start + _GATHER] if len(group) > _GATHER else group)
            except BlockingIOError:
                raise TimeoutError("the peer takes no data") from None

    def _send_gathered(self, buffers: Sequence[bytes | memoryview]) -> None:
        left = sum(map(len, buffers)) - self._socket.sendmsg(buffers)
        if left:
            pending = memoryview(b"".join(buffers))[-left:]
            while pending:
                pending = pending[self._socket.send(pending) :]

    def wait_closed(self, timeout_seconds: float) -> bool:
        """Wait for the peer's close and throw away what it still sends; whether it closed in time.

        Closing with unread bytes makes the kernel send a reset, which can overtake our last PDU.
        """
        deadline = time.monotonic() + timeout_seconds
        scratch = memoryview(bytearray(4096))
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.wait_readable(left)
                if self._socket.recv_into(scratch) == 0:
                    return True
        except (OSError, ValueError):
            pass
        return False

    def interrupt(self, last_words: bytes) -> None:
        """From another thread: say something if nobody is sending, and make every read and write end now."""
        with contextlib.suppress(OSError):
            if self._lock.acquire(blocking=False):
                try:
                    self._socket.send(last_words, socket.MSG_DONTWAIT)
                finally:
                    self._lock.release()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; idempotent."""
        if self._open:
            self._open = False
            self._socket.close()

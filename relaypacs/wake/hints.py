"""Hints from the receive processes to intake: "this segment is committed up to here", as Unix datagrams.

The spool's `on_commit` calls `HintSender.send`; intake loops over `HintReceiver.wait`. A hint is never truth: a lost
one costs a slow safety scan, so nothing here blocks or raises once built. A kernel queues as few as 10 datagrams
(net.unix.max_dgram_qlen, unix(7)); what does not fit is merged per segment, and one thread that sleeps otherwise
sends it again as soon as there is room. An absent receiver drops hints: intake scans the spool when it starts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from relaypacs.model import Committed

_LONGEST_ADDRESS = 107  # sun_path less its NUL, unix(7)
_DATAGRAM_HINTS = 64
_DATAGRAM_BYTES = 8192
_MOST_PENDING = 4096
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.002, 0.01
_HINT = re.compile(rb"([0-9a-f]{32}) ([0-9]{1,19})")
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """`path` as a socket address; one too long for that goes through its folder's descriptor."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def poke(path: Path) -> None:
    """Make the receiver at `path` return from `wait` now, with no hint. Never blocks, never raises."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
        socket_address(path) as address,
    ):
        sender.sendto(b"", address)


class HintSender:
    """Sends hints to the receiver at `path`, from any thread. Build it after the process has forked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._pending: dict[str, int] = {}
        self._changed = threading.Condition()
        self._retrier: threading.Thread | None = None
        self._retrying = False
        """The retrier tries again by itself, within 10 ms: what comes meanwhile waits for it."""
        self._closed = False
        self.dropped = 0
        """Hints given up, because nobody listened or too many were pending."""

    def send(self, committed: Committed) -> None:
        """Tell that `committed` is durable. Never blocks, never raises."""
        with self._changed:
            if self._closed:
                return
            generation, end = committed.generation, committed.end
            if generation not in self._pending and len(self._pending) >= _MOST_PENDING:
                if not self._retrying:
                    self._flush()
                if len(self._pending) >= _MOST_PENDING:
                    self.dropped += 1
                    return
            self._pending[generation] = max(end, self._pending.get(generation, 0))
            if not self._retrying and not self._flush():
                self._start_retrying()

    def close(self) -> None:
        """Try once more to send what is pending, then stop. Idempotent."""
        with self._changed:
            if not self._closed:
                self._flush()
                self._closed = True
                self._changed.notify()
                self._socket.close()
            retrier = self._retrier
        if retrier is not None:
            retrier.join()

    def _flush(self) -> bool:
        """Send what is pending (lock held); False while the receiver's queue is full."""
        while self._pending:
            some = list(self._pending)[:_DATAGRAM_HINTS]
            body = b"\n".join(f"{generation} {self._pending[generation]}".encode() for generation in some)
            try:
                with socket_address(self._path) as address:
                    self._socket.sendto(body, address)
            except OSError as error:
                if error.errno in _FULL:
                    return False
                self.dropped += len(self._pending)
                self._pending.clear()
                return True
            for generation in some:
                del self._pending[generation]
        return True

    def _start_retrying(self) -> None:
        if self._retrier is None:
            retrier = threading.Thread(target=self._retry, name="hint-retry", daemon=True)
            try:
                retrier.start()
            except RuntimeError:
                return  # no thread is to be had now: the next hint tries again
            self._retrier = retrier
        else:
            self._changed.notify()
        self._retrying = True

    def _retry(self) -> None:
        wait = _FIRST_RETRY_SECONDS
        with self._changed:
            while not self._closed:
                if not self._retrying:
                    self._changed.wait()
                    wait = _FIRST_RETRY_SECONDS
                elif self._flush():
                    self._retrying = False
                else:
                    self._changed.wait_for(lambda: self._closed, wait)
                    wait = min(2 * wait, _LAST_RETRY_SECONDS)


class HintReceiver:
    """Receives hints at `path`, for one thread. A socket file left by an earlier life is replaced.

    Raises OSError when the socket can't be made; `wait` ignores what is no hint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            with socket_address(path) as address:
                self._socket.bind(address)
            path.chmod(0o600)
        except OSError:
            self._socket.close()
            raise
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    def fileno(self) -> int:
        """The descriptor that becomes readable with a hint."""
        return self._socket.fileno()

    def wait(self, timeout_seconds: float) -> list[tuple[str, int]]:
        """Every hint that is there, waiting up to `timeout_seconds` for the first.

        Returns (generation, committed end in bytes), each generation once with its furthest end; empty after the time.
        """
        self._selector.select(timeout_seconds)
        ends: dict[str, int] = {}
        with contextlib.suppress(BlockingIOError):
            while len(ends) < _MOST_PENDING:
                for line in self._socket.recv(_DATAGRAM_BYTES).split(b"\n"):
                    hint = _HINT.fullmatch(line)
                    if hint:
                        generation, end = hint[1].decode(), int(hint[2])
                        ends[generation] = max(end, ends.get(generation, 0))
        return list(ends.items())

    def close(self) -> None:
        """Stop listening and remove the socket file. Idempotent."""
        if self._socket.fileno() >= 0:
            self._selector.close()
            self._socket.close()
            with contextlib.suppress(OSError):
                self._path.unlink()

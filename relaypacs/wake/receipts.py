"""Receipts over the node's own socket: "tell me when this record is in staging and its rows are committed".

A receive process connects (`ReceiptAsker`) and sends one message per object; the relay process answers it once it is
so (`ReceiptSocket`). No answer ever means anything: who asks has a deadline of his own. If the relay process restarts,
what was asked is asked again. Messages of a SOCK_SEQPACKET socket (unix(7)) come whole.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relaypacs.model import Committed
from relaypacs.wake.hints import socket_address

_MESSAGE_BYTES = 4096
_BACKLOG = 64
_AGAIN_SECONDS = 0.5
"""How soon a connection that is not there is tried again."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody waits for: a record of the spool, by segment and committed end (bytes), and its instance."""

    number: int
    generation: str
    end: int
    sop_instance_uid: str
    until: float
    """By time.monotonic(), which all processes share: nobody waits any more."""


class ReceiptAsker:
    """The asking side, for any number of threads of one process. Build it after the fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._connections = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[int, threading.Event] = {}

    def wait(self, committed: Committed, sop_instance_uid: str, timeout_seconds: float) -> bool:
        """Whether the receipt came within `timeout_seconds`. Never raises."""
        number, came = next(self._numbers), threading.Event()
        wish = Wish(number, committed.generation, committed.end, sop_instance_uid, time.monotonic() + timeout_seconds)
        with self._lock:
            self._waiting[number] = came
        try:
            asked = 0
            while (left := wish.until - time.monotonic()) > 0 and not came.is_set():
                asked = self._ask(wish, asked)
                came.wait(min(left, _AGAIN_SECONDS))
            return came.is_set()
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def close(self) -> None:
        """Hang up. Idempotent."""
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _ask(self, wish: Wish, asked: int) -> int:
        """Send the wish, unless it went over this connection before; the connection it went over, 0 for none."""
        with self._lock:
            if self._socket is None:
                self._connect()
            if self._socket is None or asked == self._connections:
                return asked
            uid = wish.sop_instance_uid.encode("utf-8", "surrogatepass").hex()
            line = f"{wish.number} {wish.generation} {wish.end} {wish.until!r} {uid}"
            try:
                self._socket.send(line.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                return 0
            return self._connections

    def _connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with socket_address(self._path) as place:
                made.connect(place)
            threading.Thread(target=self._listen, args=(made,), name="receipts", daemon=True).start()
        except (OSError, RuntimeError):  # nobody is there, or there are no more threads
            made.close()
            return
        self._socket = made
        self._connections += 1

    def _listen(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := connection.recv(_MESSAGE_BYTES):
                with self._lock:
                    came = self._waiting.get(int(answer))
                if came is not None:
                    came.set()
        with self._lock:
            self._socket = None
        connection.close()


class ReceiptSocket:
    """The answering side, for one thread; `poke` may be called by any. A socket left by an earlier life is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            with socket_address(path) as place:
                self._listener.bind(place)
            path.chmod(0o600)
            self._listener.listen(_BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self._poked, self._poke = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._poked, selectors.EVENT_READ)

    def poke(self) -> None:
        """Make `wait` return now."""
        with contextlib.suppress(OSError):
            self._poke.send(b".")

    def wait(self, timeout_seconds: float | None) -> list[tuple[Wish, Callable[[], None]]]:
        """New wishes, each with what answers it; empty after the time (None: none) or a poke."""
        found: list[tuple[Wish, Callable[[], None]]] = []
        for key, _ in self._selector.select(timeout_seconds):
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if ready is self._listener:
                with contextlib.suppress(OSError):
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
            elif ready is self._poked:
                with contextlib.suppress(BlockingIOError):
                    while self._poked.recv(1):
                        pass
            else:
                found += self._read(ready)
        return found

    def close(self) -> None:
        """Hang up on everybody and remove the socket."""
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._poke.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _read(self, connection: socket.socket) -> list[tuple[Wish, Callable[[], None]]]:
        found: list[tuple[Wish, Callable[[], None]]] = []
        try:
            while line := connection.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT):
                number, generation, end, until, uid = (*line.decode().split(" "), "")[:5]
                text = bytes.fromhex(uid).decode("utf-8", "surrogatepass")
                wish = Wish(int(number), generation, int(end), text, float(until))
                found.append((wish, lambda number=wish.number: _answer(connection, number)))  # type: ignore[misc]
        except BlockingIOError:
            return found
        except OSError:
            pass
        self._selector.unregister(connection)
        connection.close()
        return found


def _answer(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        connection.send(str(number).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

"""A receive process while its node goes out of service: who is let in, who has to go, and what is still open.

Used by `receive.edge` and the associations' threads; the relay process asks `any_open`. While a process has an
association it holds a lock (shared, on one file of the node), taken before it looks whether the node is being drained.
The relay marks that first and looks at the lock then, so whoever it does not see will be refused. The kernel drops the
lock with its process, and a process that is stopped keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

LOOK_SECONDS = 10.0
"""How often a process with associations looks whether it is to end them; without any it sleeps."""
SLACK_SECONDS = 1.0
"""A look that is due so soon is taken now: the process is awake anyway."""


class Draining:
    """One process's part. `begin` and `look` are the edge's; the rest is thread-safe."""

    def __init__(
        self, draining: Callable[[], bool], lock_file: Path | None, *, stop_fd: int, stopping: Callable[[], bool]
    ) -> None:
        """`draining()`: whether the node is. `stop_fd` is readable once `stopping()`. OSError if `lock_file` can't be
        opened; without one nobody asks."""
        self._draining, self._stopping = draining, stopping
        self._lock_fd = _open(lock_file) if lock_file is not None else -1
        self._lock = threading.Lock()
        self._open = 0
        self._ordered = False
        self._order_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._either = select.epoll()
        self._either.register(stop_fd, select.EPOLLIN)
        self._either.register(self._order_fd, select.EPOLLIN)
        self.fd = self._either.fileno()
        """Readable while `ending()`."""
        self.look_at: float | None = None
        """When to `look` next, in monotonic seconds; None while there is no association."""

    def begin(self) -> bool:
        """Count an association as open until `ended`; False, and it does not count, if the node is being drained."""
        with self._lock:
            self._open += 1
            if self._open == 1 and self._lock_fd >= 0:
                fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        self.look(time.monotonic())
        if self._ordered:
            self.ended()
        return not self._ordered

    def ended(self) -> None:
        """An association that began has ended: whatever was answered with Success is in the spool."""
        with self._lock:
            self._open -= 1
            if self._open == 0 and self._lock_fd >= 0:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def look(self, now: float) -> None:
        """Look whether the node is being drained; the associations are told, also that it no longer is."""
        ordered = self._draining()
        if ordered and not self._ordered:
            os.eventfd_write(self._order_fd, 1)
        elif self._ordered and not ordered:
            os.eventfd_read(self._order_fd)
        self._ordered = ordered
        self.look_at = now + LOOK_SECONDS if self._open else None

    def look_if_due(self, now: float) -> None:
        """`look` when it is time, or nearly."""
        if self.look_at is not None and self.look_at <= now + SLACK_SECONDS:
            self.look(now)

    def ending(self) -> bool:
        """Whether an association has to end after the object in hand."""
        return self._ordered or self._stopping()

    def why(self) -> str:
        """In words, for one that had to."""
        return "the node stops" if self._stopping() else "the node is being drained"

    def close(self) -> None:
        """No association is left and none will come."""
        self._either.close()
        os.close(self._order_fd)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)


def any_open(lock_file: Path) -> bool:
    """Whether a process of the node has an association open. OSError if that can't be told."""
    descriptor = _open(lock_file)
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        return True
    finally:
        os.close(descriptor)


def _open(lock_file: Path) -> int:
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

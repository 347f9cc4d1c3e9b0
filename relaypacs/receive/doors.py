"""The listening sockets of one receive process: taking connections from them, and pausing where that can't be done.

Used by `receive.edge`. Other receive processes share the sockets: a connection that one of them was faster to take is
no error.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relaypacs import log
from relaypacs.failpoint import reach

_ACCEPTS_PER_TURN = 64
_GIVE_WAY_SECONDS = 0.0005
"""What a process that has more connections than another lets that one be first: eight long associations are to use both
processors, and a process that hangs must not cost the others more than this."""
_PAUSE_SECONDS = 0.2
"""How long accepting rests when the process has no file descriptor left."""


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and whether TLS is spoken there."""

    listener: socket.socket
    tls: bool


class Doors:
    """All of them; `again_at` (monotonic seconds) says when to `open` them again, None while they are open."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        plain: Sequence[socket.socket],
        tls: Sequence[socket.socket],
        has_most: Callable[[], bool],
    ) -> None:
        """Their events carry their `Door`. `has_most`: whether another process should be first."""
        self._selector, self._has_most = selector, has_most
        self._doors = [*(Door(one, False) for one in plain), *(Door(one, True) for one in tls)]
        self.again_at: float | None = None

    def open(self) -> None:
        """Take connections from now on."""
        self.again_at = None
        for door in self._doors:
            door.listener.setblocking(False)
            self._selector.register(door.listener, selectors.EVENT_READ, door)

    def close(self) -> None:
        """For good."""
        for door in self._doors:
            door.listener.close()

    def accept(self, door: Door) -> Iterator[tuple[socket.socket, str, int]]:
        """Connections that wait there now, each with its numeric address and port."""
        for number in range(_ACCEPTS_PER_TURN):
            if self._has_most():
                if number:
                    return  # what still waits brings us back
                time.sleep(_GIVE_WAY_SECONDS)
            try:
                sock, name = door.listener.accept()
            except BlockingIOError:
                return  # another receive process was faster
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.event(log.ERROR, "accept-paused", "no file descriptor or memory left for another connection")
                    for one in self._doors:
                        self._selector.unregister(one.listener)
                    self.again_at = time.monotonic() + _PAUSE_SECONDS
                    return
                if error.errno == errno.EINVAL:
                    return  # shut down: the order to stop is on its way
                continue  # that connection is gone already
            sock.setblocking(False)
            reach("edge.accepted")
            host = str(name[0])
            if "." in host:
                host = host.removeprefix("::ffff:")  # an IPv4 peer on an IPv6 listener
            yield sock, host, name[1]

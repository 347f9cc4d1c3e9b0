"""A connection that has no association yet, and the queues in which such connections wait; used by `receive.edge`.

What a connection waits for is its `Phase`. All of one phase wait equally long, so each queue is in the order of its
deadlines and nothing is ever searched.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from relaypacs.config.model import Receive
from relaypacs.policy.admission import Peer
from relaypacs.upper.tls import Channel


class Phase(IntEnum):
    """What is awaited of the peer."""

    HEADER = 0
    """The PROXY protocol's header."""
    HANDSHAKE = 1
    """Its part of the TLS handshake."""
    REQUEST = 2
    """Its A-ASSOCIATE-RQ."""
    REFUSED = 3
    """Its close: it has had its answer (ARTIM, PS3.8 9.1.5)."""


def timeouts_of(receive: Receive) -> dict[Phase, float]:
    """How long a connection waits in each phase, in seconds; [tls] says it of the handshake."""
    return {
        Phase.HEADER: receive.association_request_timeout_seconds,
        Phase.REQUEST: receive.association_request_timeout_seconds,
        Phase.REFUSED: receive.release_timeout_seconds,
    }


@dataclass(eq=False, slots=True)
class Waiting:
    """A connection without an association."""

    sock: socket.socket
    host: str
    """Numeric address of the peer."""
    peer: str
    """Address and port, for people."""
    phase: Phase
    deadline: float
    """Monotonic seconds."""
    received: bytearray = field(default_factory=bytearray)
    """What has come of the A-ASSOCIATE-RQ, or of the PROXY protocol's header."""
    counted: bool = False
    """Whether it is counted among the connections."""
    tls: bool = False
    """Whether it came to a TLS listener."""
    local: bool = False
    """Whether it is a balancer's own: it looks whether we are there, and mostly says no more."""
    channel: Channel | None = None
    secured: bool = False
    """Whether the TLS handshake is done."""
    names: tuple[str, ...] = ()
    """Of its verified certificate."""

    @property
    def begun(self) -> bool:
        """Whether it has said something, beside a balancer that looks whether we are there."""
        return bool(self.received) or self.channel is not None

    @property
    def refused(self) -> bool:
        """Whether it has had its answer."""
        return self.phase is Phase.REFUSED

    def who(self) -> Peer:
        """Who it is, as far as it has been proven."""
        return Peer(self.host, self.secured, self.names)

    def send(self, data: bytes) -> None:
        """Send a few bytes without waiting, over TLS where there is TLS. OSError when that can't be done."""
        if self.secured and self.channel is not None:
            data = self.channel.encrypt(data)
        self.sock.send(data)

    def flush(self) -> bool:
        """Send what TLS has to say, without waiting; whether there was anything. OSError when that can't be done."""
        data = self.channel.output() if self.channel is not None else b""
        if data and self.sock.send(data) < len(data):
            raise BrokenPipeError  # a peer that takes not even a handshake
        return bool(data)


def spoken(host: str, port: int) -> str:
    """An address for people: `10.0.0.1:40000`, `[fe80::1]:40000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Queues:
    """All waiting connections of a process."""

    def __init__(self) -> None:
        self._queues: dict[Phase, OrderedDict[Waiting, None]] = {phase: OrderedDict() for phase in Phase}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Waiting]:
        for queue in self._queues.values():
            yield from tuple(queue)

    def add(self, waiting: Waiting) -> None:
        """Behind those of its phase."""
        self._queues[waiting.phase][waiting] = None

    def remove(self, waiting: Waiting) -> None:
        """Out of its queue, if it is there."""
        self._queues[waiting.phase].pop(waiting, None)

    def move(self, waiting: Waiting, phase: Phase, deadline: float) -> None:
        """To another phase with a new deadline."""
        self.remove(waiting)
        waiting.phase, waiting.deadline = phase, deadline
        self.add(waiting)

    def next_deadline(self) -> float | None:
        """When something expires first."""
        return min((next(iter(queue)).deadline for queue in self._queues.values() if queue), default=None)

    def expired(self, now: float) -> Iterator[Waiting]:
        """Those whose time is over; each must be removed or moved before the next is asked for."""
        for queue in self._queues.values():
            while queue and (waiting := next(iter(queue))).deadline <= now:
                yield waiting

    def secure(self) -> Iterator[Waiting]:
        """Those that have begun TLS and no association, the longest wait of each phase first."""
        for phase in (Phase.HANDSHAKE, Phase.REQUEST):
            yield from (one for one in self._queues[phase] if one.channel is not None)

    def refused(self) -> OrderedDict[Waiting, None]:
        """Those that have had their answer, the oldest first."""
        return self._queues[Phase.REFUSED]

    def silent(self) -> Iterator[Waiting]:
        """Those that owe something, the longest wait of each phase first."""
        for phase, queue in self._queues.items():
            if phase is not Phase.REFUSED:
                yield from queue

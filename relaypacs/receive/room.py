"""What every association of a receive process shares, and the words for how they end."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from relaypacs.config.model import Receive
from relaypacs.dicom.contexts import Offer
from relaypacs.receive.limits import Share
from relaypacs.spool.writer import SpoolWriter
from relaypacs.upper.reader import Buffers

RELEASED, ABORTED, PEER_ABORTED = "released", "aborted", "peer-aborted"
CONNECTION_LOST, TIMEOUT, SHUTDOWN = "connection-lost", "timeout", "shutdown"


@dataclass(frozen=True, slots=True)
class Room:
    """A receive process's things. `stop_fd` is readable once `stopping()` is true."""

    receive: Receive
    offer: Offer
    spool: SpoolWriter
    limits: Share
    buffers: Buffers
    stop_fd: int
    stopping: Callable[[], bool]


def new_association_id(now: float) -> str:
    """20 hexadecimal digits: 12 of milliseconds since 1970, so that ids sort by time, and 8 random ones."""
    return f"{int(now * 1000):012x}{secrets.token_hex(4)}"

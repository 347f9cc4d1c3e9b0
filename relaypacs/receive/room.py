"""What every association of a receive process shares, and the words for how they end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from relaypacs.config.model import Receive
from relaypacs.dicom.contexts import Offer
from relaypacs.receive.association_log import AssociationLog
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
    association_log: AssociationLog
    limits: Share
    buffers: Buffers
    stop_fd: int
    stopping: Callable[[], bool]

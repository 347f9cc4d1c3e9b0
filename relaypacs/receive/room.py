"""What every association of a receive process shares, and the words for how they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from relaypacs.config.model import Caller, Receive
from relaypacs.config.secrets import Credentials
from relaypacs.dicom.contexts import Offer
from relaypacs.receive.association_log import AssociationLog
from relaypacs.receive.draining import Draining
from relaypacs.receive.learned import Learned
from relaypacs.receive.limits import Share
from relaypacs.receive.receipt import Receipts
from relaypacs.receive.shared import SharedLimits
from relaypacs.spool.writer import SpoolWriter
from relaypacs.upper.reader import Buffers

RELEASED, ABORTED, PEER_ABORTED = "released", "aborted", "peer-aborted"
CONNECTION_LOST, TIMEOUT, SHUTDOWN = "connection-lost", "timeout", "shutdown"


@dataclass(frozen=True, slots=True)
class Room:
    """A receive process's things. `stop_fd` is readable once `stopping()` is true."""

    receive: Receive
    offers: Mapping[Caller, Offer]
    """What each caller may use."""
    takers: Learned
    """What of it the caller's destinations take."""
    credentials: Mapping[Caller, Credentials]
    """What callers with a user identity have to show."""
    spool: SpoolWriter
    association_log: AssociationLog
    limits: Share
    shared: SharedLimits
    buffers: Buffers
    stop_fd: int
    stopping: Callable[[], bool]
    receipts: Receipts | None
    """What callers with `ack = "staged"` wait for; None if there are none."""
    draining: Draining
    """Whether associations may begin and go on: the node stops, or goes out of service."""

"""A receive process: `run` is called by `node` in the child, with the inherited listeners and its own spool writer.

Returns after the order to stop: nothing new is accepted, running C-STOREs are finished and answered within the grace
period, idle associations are aborted at once, the rest when the grace is over. Whatever was answered with Success is
in the spool by then, as always.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from relaypacs import log
from relaypacs.config.model import Caller, Config
from relaypacs.config.secrets import Credentials, caller_credentials
from relaypacs.dicom.contexts import Offer, storage_offer
from relaypacs.errors import ConfigError
from relaypacs.policy.rights import offer_to
from relaypacs.receive.association_log import AssociationLog
from relaypacs.receive.certificates import Certificates
from relaypacs.receive.draining import Draining
from relaypacs.receive.edge import Edge
from relaypacs.receive.learned import Learned
from relaypacs.receive.limits import Limits, Share
from relaypacs.receive.receipt import Receipts
from relaypacs.receive.room import Room
from relaypacs.receive.shared import SharedLimits
from relaypacs.spool.writer import SpoolWriter
from relaypacs.upper.reader import Buffers

if TYPE_CHECKING:
    from relaypacs.wake.keeper import Keeper

READ_BUFFER_BYTES = 256 << 10
"""What an association in motion leases: several PDUs, and small enough to stay in the processor's cache."""


class StopOrder(Protocol):
    """The order to stop: an event, and a file descriptor that is readable once it is set."""

    @property
    def event(self) -> threading.Event:
        """Set once."""
        ...

    def fileno(self) -> int:
        """Readable from then on."""
        ...


def run(
    config: Config,
    *,
    listeners: Sequence[socket.socket],
    tls_listeners: Sequence[socket.socket] = (),
    certificates: Certificates | None = None,
    spool: SpoolWriter,
    stop: StopOrder,
    limits: Share | None = None,
    keeper: Keeper | None = None,
    associations_file: Path | None = None,
    follow: Callable[[Callable[[Config], Callable[[], None]]], None] | None = None,
) -> None:
    """Receive on `listeners` and `tls_listeners` (bound, listening; closed at the end) into `spool` until `stop`.

    `certificates` are those of [tls], for `tls_listeners`.
    `limits` is this process's share of the node's; none: it is the only one. `keeper` asks Redis for the limits that
    nodes share; none: there are no others. `associations_file` is locked while there are associations (`draining`).
    `follow` is given what prepares another configuration while it runs, and returns what puts it in force.
    The spool writer stays open: the caller closes it afterwards.
    """
    receive, share = config.receive, limits or Limits(config.receive).join()
    draining = Draining(
        config.draining_file.exists, associations_file, stop_fd=stop.fileno(), stopping=stop.event.is_set
    )
    room = Room(
        receive=receive,
        offers=_offers(config),
        takers=Learned(config),
        credentials=_credentials(config.caller),
        limits=share,
        shared=SharedLimits(config.redis, keeper, share, receive.processes),
        spool=spool,
        association_log=AssociationLog(spool.append_event),
        buffers=Buffers(READ_BUFFER_BYTES),
        stop_fd=stop.fileno(),
        stopping=stop.event.is_set,
        receipts=_receipts(config),
        draining=draining,
    )
    edge = Edge(
        room,
        config.caller,
        listeners,
        tls_listeners=tls_listeners,
        certificates=certificates,
        tls_handshake_timeout_seconds=config.tls.handshake_timeout_seconds,
    )

    def prepare(new: Config) -> Callable[[], None]:
        renewed = replace(
            room,
            receive=new.receive,
            offers=_offers(new),
            takers=Learned(new),
            credentials=_credentials(new.caller),
        )

        def take() -> None:
            share.renew(new.receive)
            edge.renew(renewed, new.caller)

        return take

    if follow is not None:
        follow(prepare)
    if not config.caller:
        log.event(log.WARNING, "nobody-admitted", "no [[caller]] is configured: every association will be rejected")
    room.association_log.start()
    edge.run()
    if edge.drain(receive.grace_seconds):
        draining.close()
    else:
        log.event(log.ERROR, "associations-left", "some associations did not end in time")
    room.association_log.close()


def _offers(config: Config) -> dict[Caller, Offer]:
    """What each caller may use."""
    receive = config.receive
    offer = storage_offer(receive.transfer_syntaxes, receive.private_sop_classes, receive.max_transfer_syntaxes)
    return {caller: offer_to(caller, offer) for caller in config.caller}


def _credentials(callers: Sequence[Caller]) -> dict[Caller, Credentials]:
    """What each caller has to show; one whose secrets can't be had now is not admitted."""
    found = {}
    for caller in callers:
        try:
            found[caller] = caller_credentials(caller, os.environ)
        except ConfigError as problem:
            log.event(log.ERROR, "caller-without-secret", str(problem), user_id=caller.ae_title)
    return found


def _receipts(config: Config) -> Receipts | None:
    if not any(caller.ack == "staged" for caller in config.caller):
        return None
    return Receipts(config.receipt_socket, config.receive.staged_timeout_seconds)

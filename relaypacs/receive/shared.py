"""Limits that several nodes keep together: associations of a caller, failed requests of an address.

They come behind the node's own (`receive.limits`). The edge only looks things up in memory; an admitted association
asks Redis in its own thread, before it is accepted, and waits for `[redis] timeout_seconds` at most. Without an answer
the node keeps to its part of the limit. A C-STORE asks nobody.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relaypacs.config.redis import Redis
from relaypacs.policy.admission import (
    APPLICATION,
    CALLED_AE,
    CALLING_AE,
    CERTIFICATE,
    OVERLOAD,
    PROTOCOL,
    USER_IDENTITY,
    Admitted,
    Rejected,
)
from relaypacs.receive.limits import Share, network
from relaypacs.wake.script import fail, take

if TYPE_CHECKING:
    from relaypacs.wake.keeper import Keeper

TOO_MANY = Rejected(
    *OVERLOAD,
    "association-limit-ae-nodes",
    "too many associations of this calling AE title over all nodes: raise [redis] max_associations_per_ae",
)
FAILED_TOO_OFTEN = Rejected(
    *OVERLOAD,
    "failed-associations",
    "too many association requests of this address failed: it is refused for [redis] refuse_seconds",
)
_BROKEN = "request"
_TLS = ("tls", "tls-plain", "tls-expired", "tls-issuer", "tls-certificate", "tls-no-certificate")
FAILURES = frozenset(
    {CALLING_AE[-1], CALLED_AE[-1], APPLICATION[-1], PROTOCOL[-1], CERTIFICATE[-1], USER_IDENTITY[-1], _BROKEN, *_TLS}
)
"""Refusals that are the peer's fault: neither limits nor a full disk, nor what may be our own certificate's fault."""
_UNBOUNDED = 1 << 30
_MOST_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """An association that is counted; to be given back at its end."""

    member: str = ""


class SharedLimits:
    """A receive process's view. Thread-safe; never raises. Without `keeper` nothing is limited here."""

    def __init__(self, settings: Redis, keeper: Keeper | None, share: Share, processes: int = 1) -> None:
        self._settings = settings
        self._keeper = keeper
        self._share = share
        self._processes = processes
        self._most_failed = settings.max_failed_associations_per_address if keeper else 0
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._failures: dict[str, tuple[int, float]] = {}
        self._refused: dict[str, float] = {}

    def refuses(self, host: str) -> bool:
        """Whether this numeric address failed too often, as far as is known here."""
        if not self._refused:
            return False
        address = _hashed(network(host))
        with self._lock:
            until = self._refused.get(address, 0.0)
            if until and until <= time.monotonic():
                del self._refused[address]
            return until > time.monotonic()

    def failed(self, host: str, word: str) -> None:
        """Count a refusal by its metric's word if it was the peer's fault."""
        if not self._most_failed or word not in FAILURES or self._keeper is None:
            return
        settings, keeper, address = self._settings, self._keeper, _hashed(network(host))
        self._count(address, keeper)
        op = fail(
            keeper.key("failed", address),
            keeper.key("refused", address),
            self._most_failed,
            int(settings.failed_window_seconds * 1000),
            int(settings.refuse_seconds * 1000),
        )
        keeper.tell(("failed", next(self._numbers)), op, lambda ms: self._refuse(address, ms / 1000))

    def enter(self, admitted: Admitted) -> Ticket | Rejected:
        """Count an association that this node has admitted, until `leave`."""
        keeper, most, host = self._keeper, self._settings.max_associations_per_ae, admitted.peer.host
        if keeper is None or not (most or self._most_failed):
            return Ticket()
        address, member = _hashed(network(host)), keeper.member()
        slots = keeper.key("associations", *_name(admitted))
        op = take(slots, keeper.key("refused", address), most or _UNBOUNDED, member)
        said = keeper.ask(op, slots=slots, member=member)
        if said == 1:
            return Ticket(member)
        if said == -1 or (said is None and self.refuses(host)):
            return FAILED_TOO_OFTEN
        part = max(1, most // self._settings.nodes) if most else _UNBOUNDED
        if said == 0 or self._share.associations_of(admitted.calling_ae) > part:
            return TOO_MANY
        keeper.hold(slots, member)
        return Ticket(member)

    def leave(self, ticket: Ticket | Rejected) -> None:
        """The association has ended; nothing to do for one that was rejected."""
        if isinstance(ticket, Ticket) and ticket.member and self._keeper is not None:
            self._keeper.let_go(ticket.member)

    def _count(self, address: str, keeper: Keeper) -> None:
        """This process's own count: all there is while Redis is gone."""
        most, now = self._most_failed, time.monotonic()
        if not keeper.there:
            most = max(1, most // (self._settings.nodes * self._processes))
        with self._lock:
            count, until = self._failures.pop(address, (0, 0.0))
            if until <= now:
                count, until = 0, now + self._settings.failed_window_seconds
            if count + 1 < most:
                self._failures[address] = count + 1, until
                _bound(self._failures)
                return
        self._refuse(address, self._settings.refuse_seconds)

    def _refuse(self, address: str, seconds: float) -> None:
        if seconds > 0:
            with self._lock:
                self._refused[address] = time.monotonic() + seconds
                _bound(self._refused)


def _bound(entries: dict[str, float] | dict[str, tuple[int, float]]) -> None:
    """Forget the oldest of too many."""
    while len(entries) > _MOST_ADDRESSES:
        entries.pop(next(iter(entries)))


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12, person=b"relaypacs").hexdigest()


def _name(admitted: Admitted) -> tuple[str, str]:
    """How the caller is called in a key: by its title where the configuration spells it, else by a hash."""
    title = admitted.caller.ae_title
    return ("hash", _hashed(admitted.calling_ae)) if set(title) & set("*?") else ("title", title)

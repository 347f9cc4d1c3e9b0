"""Claiming, also when the answer to a COMMIT is lost: the deliveries may be leased then, and nobody knows by whom.

Called by `JobStore`. A claim in doubt is noted here and looked for by the next claim for the same destination, so that
its deliveries wait for no lease to end. One that is not found may still be on its way through the server: it is looked
for until its lease has ended.
"""

from __future__ import annotations

import secrets
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, cast

from sqlalchemy import Connection, and_, or_

from relaypacs.errors import JobsError
from relaypacs.jobs import delivery
from relaypacs.jobs.again import until_alone
from relaypacs.jobs.batch import Leased
from relaypacs.jobs.clock import Clock
from relaypacs.jobs.schema import OWED
from relaypacs.jobs.schema import delivery as deliveries
from relaypacs.jobs.states import Change
from relaypacs.jobs.values import ANYWHERE, AtOnce, TakenIn
from relaypacs.model import Claim

_CHANCE_BITS = 40


class Mine(NamedTuple):
    """What deliveries are leased with, and how they would be found: the lease and its end, seconds by the database's
    clock."""

    lease: int
    due_at: float


class Leases:
    """The claims of one store; thread-safe."""

    def __init__(
        self, writing: Callable[[], AbstractContextManager[Connection]], clock: Clock, *, shared: bool = False
    ) -> None:
        """`shared`: staging is, so that what is in it can be claimed by any node."""
        self._writing, self._clock, self.shared = writing, clock, shared
        self._lock = threading.Lock()
        self._doubts: dict[tuple[str, str], list[Mine]] = {}

    def homes(self, node: str) -> tuple[str, ...]:
        """Whose deliveries `node` may claim."""
        return (node, ANYWHERE) if self.shared else (node,)

    def claim(self, destination: str, *, node: str, limit: int, lease_seconds: float, now: float) -> list[Claim]:
        """`JobStore.claim`."""
        claims: list[Claim] = []
        with self._lock:
            doubts = self._doubts.pop((destination, node), [])
        try:
            with self._writing() as connection:
                now += self._clock.shift(connection)
                doubts = [one for one in doubts if one.due_at > now]
                for mine in doubts:
                    claims = delivery.claimed(
                        connection, destination, homes=self.homes(node), due_at=mine.due_at, lease=mine.lease
                    )
                    if claims:
                        break
                else:
                    mine = Mine(new_lease(node), now + lease_seconds)
                    claims = delivery.claim(
                        connection,
                        destination,
                        homes=self.homes(node),
                        limit=limit,
                        due_at=mine.due_at,
                        lease=mine.lease,
                        now=now,
                    )
            doubts = [one for one in doubts if one != mine]
        except JobsError:
            # Without claims there was nothing to commit.
            if claims and mine not in doubts:
                doubts.append(mine)
            raise
        finally:
            if doubts:
                with self._lock:
                    self._doubts.setdefault((destination, node), []).extend(doubts)
        return claims

    def taken_in(
        self, write: Callable[[Connection, Leased | None], TakenIn], at_once: AtOnce, node: str, now: float
    ) -> TakenIn:
        """What `write` makes in a transaction of intake, and leases as it makes it."""
        mine: Mine | None = None
        claims: Sequence[Claim] = ()

        def once(connection: Connection) -> TakenIn:
            nonlocal mine, claims
            claims, leased = (), None
            if at_once.room:
                mine = Mine(new_lease(node), now + at_once.lease_seconds + self._clock.shift(connection))
                leased = Leased(at_once.room, mine.lease, mine.due_at)
            taken = write(connection, leased)
            claims = taken.claims
            return taken

        try:
            return until_alone(self._writing, once)
        except JobsError:
            # COMMIT may have been done: whoever claims next looks for it.
            with self._lock:
                for destination in {one.destination for one in claims}:
                    self._doubts.setdefault((destination, node), []).append(cast("Mine", mine))
            raise


def new_lease(node: str) -> int:
    """A number for one claim of a node, which nobody else uses: 22 bits of the node's name, 40 of chance."""
    return _base(node) | secrets.randbits(_CHANCE_BITS)


def end_leases(connection: Connection, node: str) -> int:
    """End every lease on the node's deliveries, and those it took of what any node may deliver; returns how many.

    They wait as before they were claimed, and are claimed again under new tokens. Should two nodes' names share their
    22 bits, the other's deliveries of the moment are made twice, as after a crash.
    """
    base = _base(node)
    theirs = and_(deliveries.c.home == ANYWHERE, deliveries.c.lease.between(base, base | (1 << _CHANCE_BITS) - 1))
    ended = 0
    for change, tried in (
        (Change.RETURN_UNTRIED, deliveries.c.attempts == 0),
        (Change.RETURN, deliveries.c.attempts > 0),
    ):
        returned = delivery.move(change, ready=True, due_at=None)
        # Both conditions: the first is the index's own.
        ended += connection.execute(returned.where(OWED, or_(deliveries.c.home == node, theirs), tried)).rowcount
    return ended


def _base(node: str) -> int:
    return zlib.crc32(node.encode()) >> 10 << _CHANCE_BITS

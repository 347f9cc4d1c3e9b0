"""What was delivered and is to be looked for at the destination, what was found there, and what is sent again.

Called by `forward.verify`, each method in one transaction. A row is opened before the first delivery of a study is
settled, so no crash leaves one out; it is closed when all that was settled since then was found. What is missing is
queued anew, and only that; after so many rounds, or when its bytes are gone, it becomes a dead letter. The delivery
that was made stays delivered: the destination did say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, select, tuple_, update

from relaypacs.jobs.again import until_alone
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.delivery import move
from relaypacs.jobs.destination_tables import TO_BE_ASKED, verification
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.people import queue_anew
from relaypacs.jobs.schema import delivery, instance
from relaypacs.jobs.states import LIVE_STATES, Change
from relaypacs.model import State

_Transaction = Callable[[], AbstractContextManager[Connection]]
Study = tuple[str, str]
"""A destination and a Study Instance UID."""
_SLACK_SECONDS = 5.0
"""A clock that was set back by so little between two deliveries leaves nothing out."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What is known of one study at one destination. Times in seconds since the epoch; `due_at` None: settled."""

    destination: str
    study_instance_uid: str
    node: str
    since: float
    due_at: float | None
    rounds: int
    tries: int
    expected: int
    found: int
    checked_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Expected:
    """An instance that the destination said it has."""

    instance_id: int
    sop_instance_uid: str
    series_instance_uid: str
    priority: int


class Verifications:
    """See the module."""

    def __init__(self, reading: _Transaction, writing: _Transaction) -> None:
        self._reading, self._writing = reading, writing

    def note(self, studies: Collection[Study], node: str, now: float, *, due_at: float) -> None:
        """Deliveries of these are about to be settled: they are asked for at `due_at`."""
        with self._writing() as connection:
            for some in chunks(sorted(studies)):
                closed = and_(_among(some), verification.c.due_at.is_(None))
                connection.execute(
                    update(verification).where(closed).values(since=now, rounds=0, tries=0, due_at=due_at)
                )
                # Another node's clock may be ahead of ours.
                ahead = and_(_among(some), verification.c.since > now)
                connection.execute(update(verification).where(ahead).values(since=now))
                rows = [
                    {
                        "destination": destination,
                        "study_instance_uid": study,
                        "node": node,
                        "since": now,
                        "due_at": due_at,
                    }
                    for destination, study in some
                ]
                upsert(connection, verification, rows, replace=("node", "due_at"))

    def due(self, destinations: Collection[str], node: str, now: float, *, limit: int) -> list[Verified]:
        """What the node is to ask of these destinations by now, the longest due first."""
        with self._reading() as connection:
            rows = connection.execute(
                select(verification)
                .where(*_asked_of(destinations, node), verification.c.due_at <= now)
                .order_by(verification.c.due_at)
                .limit(limit)
            )
            return [Verified(*row) for row in rows]

    def next_due(self, destinations: Collection[str], node: str) -> float | None:
        """When the node is to ask one of these destinations next; None if nothing is to be asked."""
        with self._reading() as connection:
            earliest = select(func.min(verification.c.due_at)).where(*_asked_of(destinations, node))
            found: float | None = connection.scalar(earliest)
            return found

    def expected(self, one: Verified) -> tuple[list[Expected], int]:
        """What the destination said since then that it has, and how much of the study is on its way there."""
        with self._reading() as connection:
            rows = connection.execute(
                select(
                    delivery.c.instance_id,
                    instance.c.sop_instance_uid,
                    instance.c.series_instance_uid,
                    delivery.c.priority,
                    delivery.c.state,
                    delivery.c.settled_at,
                )
                .join_from(delivery, instance)
                .where(instance.c.study_instance_uid == one.study_instance_uid)
                .where(delivery.c.destination == one.destination)
                .order_by(delivery.c.id)
            )
            latest = {row.instance_id: row for row in rows}
        found = [
            Expected(row.instance_id, row.sop_instance_uid, row.series_instance_uid, row.priority)
            for row in latest.values()
            if row.state == State.DELIVERED and row.settled_at >= one.since - _SLACK_SECONDS
        ]
        return found, sum(row.state in LIVE_STATES for row in latest.values())

    def settled(self, one: Verified, *, expected: int, found: int, now: float, reason: str = "") -> None:
        """It was asked, and there is nothing more to do, unless something was delivered since `due`."""
        told = {"expected": expected, "found": found, "checked_at": now, "reason": reason}
        with self._writing() as connection:
            connection.execute(update(verification).where(_here(one)).values(**told))
            same = and_(_here(one), verification.c.due_at == one.due_at)
            connection.execute(update(verification).where(same).values(due_at=None, rounds=0, tries=0))

    def later(self, one: Verified, due_at: float, *, tries: int, reason: str) -> None:
        """It could not be asked, or it is too early: again at `due_at`."""
        with self._writing() as connection:
            connection.execute(update(verification).where(_here(one)).values(due_at=due_at, tries=tries, reason=reason))

    def missing(
        self,
        one: Verified,
        lost: Sequence[Expected],
        *,
        expected: int,
        rounds: int,
        now: float,
        due_at: float,
        reason: str,
    ) -> tuple[int, int]:
        """These are not there: queue them anew, or, after `rounds` of that or without bytes, make them dead letters
        for this `reason`. Returns how many were queued, and how many are dead letters."""
        wanted = [(each.instance_id, one.destination, each.priority) for each in lost]
        told: dict[str, object] = {"expected": expected, "found": expected - len(lost), "checked_at": now, "tries": 0}

        def write(connection: Connection) -> tuple[int, int]:
            queued = queue_anew(connection, wanted, now).changed if one.rounds < rounds else 0
            dead = _dead(connection, wanted, reason, now)
            asked = update(verification).where(_here(one))
            if queued:
                connection.execute(asked.values(**told, rounds=one.rounds + 1, due_at=due_at, reason=""))
            else:
                connection.execute(asked.values(**told, rounds=0, reason=reason))
                # Unless something was delivered since `due`: that is still to be looked for.
                connection.execute(asked.where(verification.c.due_at == one.due_at).values(due_at=None))
            return queued, dead

        return until_alone(self._writing, write)

    def of_study(self, study: str) -> list[Verified]:
        """What is known of a study, by destination."""
        with self._reading() as connection:
            of_it = select(verification).where(verification.c.study_instance_uid == study)
            return [Verified(*row) for row in connection.execute(of_it.order_by(verification.c.destination))]

    def give_up(self, destinations: Collection[str], node: str) -> None:
        """Nothing is asked of any but these destinations any more."""
        with self._writing() as connection:
            others = verification.c.destination.not_in(sorted(destinations))
            asked = update(verification).where(verification.c.node == node, TO_BE_ASKED, others)
            connection.execute(asked.values(due_at=None, reason="it is not verified any more"))


def forget_verified(connection: Connection, studies: Collection[str]) -> None:
    """Delete what is known of studies of which no instance is known any more."""
    for some in chunks(sorted(studies)):
        gone = ~exists().where(instance.c.study_instance_uid == verification.c.study_instance_uid)
        connection.execute(delete(verification).where(verification.c.study_instance_uid.in_(some), gone))


def _dead(connection: Connection, wanted: Sequence[tuple[int, str, int]], reason: str, now: float) -> int:
    """Dead letters for those of these that are not on their way; how many."""
    count = 0
    for some in chunks(wanted):
        ids = [instance_id for instance_id, _, _ in some]
        there = (delivery.c.instance_id.in_(ids), delivery.c.destination == some[0][1])
        going = set(
            connection.scalars(select(delivery.c.instance_id).where(*there, delivery.c.state.in_(sorted(LIVE_STATES))))
        )
        left = [each for each in some if each[0] not in going]
        if left:
            queue_anew(connection, left, now, without_bytes=True)
            ids = [instance_id for instance_id, _, _ in left]
            failed = move(Change.REFUTE, ready=False, settled_at=now, reason=reason)
            count += connection.execute(
                failed.where(delivery.c.instance_id.in_(ids), delivery.c.destination == some[0][1])
            ).rowcount
    return count


def _asked_of(destinations: Collection[str], node: str) -> list[ColumnElement[bool]]:
    return [verification.c.node == node, TO_BE_ASKED, verification.c.destination.in_(sorted(destinations))]


def _among(some: Sequence[Study]) -> ColumnElement[bool]:
    return tuple_(verification.c.destination, verification.c.study_instance_uid).in_(some)


def _here(one: Verified) -> ColumnElement[bool]:
    return and_(
        verification.c.destination == one.destination, verification.c.study_instance_uid == one.study_instance_uid
    )

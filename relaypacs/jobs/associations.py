"""The association log's rows: written by intake with everything else it takes in, read by people, forgotten in time.

`JobStore.associations` is a `Book`; `write` is called within `take_in`'s transaction. Taking an event in twice, or two
counts of a refusal in the wrong order, leaves the newest. A row's id is its association's, or that of the first try of
a kind of refusal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, select

from relaypacs.jobs import carried
from relaypacs.jobs.association_tables import REFUSED, association_log, proposal
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.schema import association, instance
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import AssociationEnd

_CHANGING = ("ended_at", "outcome", "word", "reason", "tries", "objects", "bytes")


@dataclass(frozen=True, slots=True)
class AssociationRow:
    """One association, or one kind of refusal of one peer. Times are seconds since the epoch."""

    association_id: str
    node: str
    calling_ae: str
    called_ae: str
    peer: str
    """`host:port`; of a refusal that of the first try."""
    tls: bool
    started_at: float
    ended_at: float
    """Of a refusal: the latest try."""
    outcome: str
    word: str
    """Why nothing could come of it, in a fixed word; empty if something could."""
    reason: str
    tries: int
    objects: int
    bytes: int
    contexts: str
    """What was proposed and accepted, as `dicom.proposals` writes it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which associations: those that every given part fits."""

    association_id: str | None = None
    """Or the beginning of one."""
    refused: bool = False
    calling_ae: str | None = None
    since: float | None = None
    """Ended (of a refusal: tried again) at this time or later."""


@dataclass(frozen=True, slots=True)
class Received:
    """What rules ask of an instance, as far as rows keep it."""

    sop_class_uid: str
    modality: str
    calling_ae: str
    called_ae: str
    peer: str


class Book:
    """The log of one job table; thread-safe but where it says so."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[Connection]],
        writing: Callable[[], AbstractContextManager[Connection]],
    ) -> None:
        self._reading, self._writing = reading, writing
        self._carry_after: carried.Place = (0.0, "")  # where the next `carry_forward` goes on

    def find(self, asked: Asked, *, limit: int) -> list[AssociationRow]:
        """The latest associations that `asked` fits, latest first, at most `limit`. JobsError."""
        with self._reading() as connection:
            return find(connection, asked, limit)

    def calling_aes(self, association_ids: Iterable[str]) -> dict[str, str]:
        """Who opened these associations, by id, as far as they are known. JobsError."""
        found: dict[str, str] = {}
        with self._reading() as connection:
            for some in chunks(dict.fromkeys(association_ids)):
                rows = connection.execute(
                    select(association.c.association_id, association.c.calling_ae).where(
                        association.c.association_id.in_(some)
                    )
                )
                found.update((row.association_id, row.calling_ae) for row in rows)
        return found

    def received(self, limit: int) -> list[Received]:
        """The last instances received, the latest first. JobsError."""
        asked = select(
            instance.c.sop_class_uid,
            instance.c.modality,
            association.c.calling_ae,
            association.c.called_ae,
            association.c.peer,
        ).join(association, association.c.association_id == instance.c.association_id)
        with self._reading() as connection:
            rows = connection.execute(asked.order_by(instance.c.id.desc()).limit(limit))
            return [Received(*(value or "" for value in row)) for row in rows]

    def forget(self, *, ended_before: float, limit: int) -> int:
        """Delete at most `limit` associations that ended before that time; returns how many. JobsError."""
        with self._reading() as connection:
            oldest = connection.scalar(select(func.min(association_log.c.ended_at)))
        if oldest is None or oldest >= ended_before:
            return 0
        with self._writing() as connection:
            return forget(connection, ended_before, limit)

    def carry_forward(self, *, ended_before: float, limit: int) -> int:
        """Count at most `limit` associations that ended before that time, and of which no instance or delivery is
        left, under one; returns how many. Looks at a bounded number and goes on from there. For one thread. JobsError.
        """
        with self._reading() as connection:
            over, end = carried.over(connection, ended_before=ended_before, after=self._carry_after, limit=limit)
        self._carry_after = end or (0.0, "")
        if not over:
            return 0
        with self._writing() as connection:
            return carried.carry_forward(connection, over)


def digest_of(contexts: str) -> str:
    """What a list of presentation contexts is kept under; "" for none."""
    return hashlib.sha256(contexts.encode()).hexdigest()[:32] if contexts else ""


def write(connection: Connection, node: str, ends: Sequence[AssociationEnd]) -> None:
    """Write a row for each; of one that is there already, what changes, if it is newer."""
    newest: dict[str, AssociationEnd] = {}
    for end in ends:
        known = newest.get(end.association_id)
        if known is None or end.tries >= known.tries:
            newest[end.association_id] = end
    proposals = {digest_of(end.contexts): end.contexts for end in newest.values() if end.contexts}
    upsert(connection, proposal, [{"digest": key, "contexts": proposals[key]} for key in sorted(proposals)])
    rows = [
        {
            "association_id": storable(end.association_id),
            "node": node,
            "calling_ae": storable(end.calling_ae),
            "called_ae": storable(end.called_ae),
            "peer": storable(end.peer),
            "tls": end.tls,
            "started_at": end.started_at,
            "ended_at": end.ended_at,
            "outcome": storable(end.outcome),
            "word": storable(end.word),
            "reason": storable(end.reason),
            "tries": end.tries,
            "objects": end.objects,
            "bytes": end.bytes,
            "proposal": digest_of(end.contexts),
        }
        for end in newest.values()
    ]
    upsert(connection, association_log, rows, replace=_CHANGING, not_below="tries")


def find(connection: Connection, asked: Asked, limit: int) -> list[AssociationRow]:
    """The latest associations that `asked` fits, latest first."""
    log = association_log.c
    wanted = []
    if asked.association_id is not None:
        wanted.append(log.association_id.startswith(asked.association_id, autoescape=True))
    if asked.refused:
        wanted.append(REFUSED)
    if asked.calling_ae is not None:
        wanted.append(log.calling_ae == asked.calling_ae)
    if asked.since is not None:
        wanted.append(log.ended_at >= asked.since)
    rows = connection.execute(
        select(association_log, proposal.c.contexts)
        .outerjoin_from(association_log, proposal, proposal.c.digest == log.proposal)
        .where(*wanted)
        .order_by(log.ended_at.desc(), log.association_id.desc())
        .limit(limit)
    )
    return [
        AssociationRow(
            association_id=row.association_id,
            node=row.node,
            calling_ae=row.calling_ae,
            called_ae=row.called_ae,
            peer=row.peer,
            tls=bool(row.tls),
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
            word=row.word,
            reason=row.reason,
            tries=row.tries,
            objects=row.objects,
            bytes=row.bytes,
            contexts=row.contexts or "",
        )
        for row in rows
    ]


def forget(connection: Connection, ended_before: float, limit: int) -> int:
    """Delete the oldest that ended before that time, and what only they proposed."""
    log = association_log.c
    rows = connection.execute(
        select(log.association_id, log.proposal)
        .where(log.ended_at < ended_before)
        .order_by(log.ended_at, log.association_id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for ids in chunks([row.association_id for row in rows]):
        connection.execute(delete(association_log).where(log.association_id.in_(ids)))
    for digests in chunks({row.proposal for row in rows} - {""}):
        used = select(log.association_id).where(log.proposal == proposal.c.digest).exists()
        connection.execute(delete(proposal).where(proposal.c.digest.in_(digests), ~used))
    return len(rows)

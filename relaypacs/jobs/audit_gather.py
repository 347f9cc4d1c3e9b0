"""What the audit trail tells of objects and refusals, made from rows that are there anyway: the flow pays nothing.

Called by `jobs.audit` for the relay's audit thread, in one transaction: the rows that are added and the marks of how
far everything was looked through are one, so nothing is told twice or left out. Told is per association and study what
was received, per destination also what was delivered or given up, and who was refused how often; never an instance.
Rows that somebody has locked wait for the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.engine import Row

from relaypacs.jobs.association_tables import association_log
from relaypacs.jobs.audit_rows import MINOR, SERIOUS, SUCCESS, Entry
from relaypacs.jobs.audit_tables import UNTOLD_RECEIVED, UNTOLD_REFUSED, audit_mark
from relaypacs.jobs.inserts import upsert
from relaypacs.jobs.schema import association, attempt, delivery, instance, tally
from relaypacs.model import State

ATTEMPTS = "attempts"
"""The mark of how far attempts were looked through: the last one's id."""
MOST = 1000
"""Groups, and attempts times ten, of one transaction."""
QUIET_SECONDS = 600.0
"""When it has tried no more for so long, what is left of its tries is told."""
_TOLD = {State.DELIVERED: "delivered", State.FAILED: "failed"}
HARMLESS = frozenset(
    {
        *("draining", "no-space", "contexts", "connection-limit"),
        *("association-limit", "association-limit-ae", "association-limit-ae-nodes"),
    }
)
"""Words of refusals that say nothing about who was refused: no alert."""


_CLASSES = (
    select(
        instance.c.sop_class_uid,
        func.count().label("number"),
        func.max(instance.c.patient_id).label("patient_id"),
        func.max(instance.c.node).label("node"),
    )
    .group_by(instance.c.sop_class_uid)
    .order_by(instance.c.sop_class_uid)
    .limit(50)
)


@dataclass(slots=True)
class _Transfer:
    """Objects of one study that went one way together."""

    count: int = 0
    at: float = 0.0
    status: int | None = None
    patient_id: str = ""
    classes: dict[str, int] = field(default_factory=dict)

    def said(self) -> dict[str, object]:
        """Parts of a row's body."""
        said: dict[str, object] = {"instances": self.count}
        if self.patient_id:
            said["patient_id"] = self.patient_id
        # Of a part of what an association brought nobody knows which.
        if sum(self.classes.values()) == self.count:
            said["classes"] = self.classes
        if self.status is not None:
            said["status"] = f"{self.status:04X}"
        return said


def has_something(connection: Connection, done: int, upto: int) -> bool:
    """Whether there may be anything to tell; a look at three indexes."""
    return (
        upto > done
        or connection.scalar(select(tally.c.association_id).where(UNTOLD_RECEIVED).limit(1)) is not None
        or connection.scalar(select(association_log.c.association_id).where(UNTOLD_REFUSED).limit(1)) is not None
    )


def position(connection: Connection) -> int:
    """How far attempts were looked through."""
    return connection.scalar(select(audit_mark.c.position).where(audit_mark.c.mark == ATTEMPTS)) or 0


def latest_attempt(connection: Connection) -> int:
    """The id of the last attempt there is."""
    return connection.scalar(select(func.max(attempt.c.id))) or 0


def received(
    connection: Connection,
    node: str,
    now: float,
    seen: MutableMapping[tuple[str, str], tuple[int, float]],
    quiet_seconds: float,
) -> tuple[list[Entry], bool]:
    """What came, of associations that have ended, or to which nothing was added for so long; marks it as told.

    Also whether there is more that has ended. Each is told in the name of the node it came to, by whichever looks
    first. `seen`: what was not told yet, by association and study: how much had come, since when.
    """
    entries = [_came(connection, row, node, now) for row in _untold(connection, ended=True)]
    if len(entries) == MOST:
        return entries, True
    before = dict(seen)
    seen.clear()
    for row in _untold(connection, ended=False):
        key = (row.association_id, row.study_instance_uid)
        count, since = before.get(key, (0, now))
        since = since if count == row.received else now
        if now - since < quiet_seconds:
            seen[key] = row.received, since
        else:
            entries.append(_came(connection, row, node, now))
    return entries, False


def _untold(connection: Connection, *, ended: bool) -> Sequence[Row[Any]]:
    found = (
        select(
            tally,
            association.c.calling_ae,
            association.c.called_ae,
            association.c.peer,
            association.c.ended_at,
            association_log.c.node,
        )
        .join_from(tally, association)
        .outerjoin(association_log, association_log.c.association_id == tally.c.association_id)
        .where(UNTOLD_RECEIVED, association.c.ended_at.is_not(None) if ended else association.c.ended_at.is_(None))
        .order_by(tally.c.association_id, tally.c.study_instance_uid)
        .limit(MOST)
        .with_for_update(of=tally, skip_locked=True)
    )
    return connection.execute(found).all()


def _came(connection: Connection, row: Row[Any], node: str, now: float) -> Entry:
    came = _Transfer(row.received - row.audited)
    receiver = row.node or ""
    kept = instance.c.association_id == row.association_id, instance.c.study_instance_uid == row.study_instance_uid
    for one in connection.execute(_CLASSES.where(*kept)):
        came.classes[one.sop_class_uid] = one.number
        came.patient_id = came.patient_id or one.patient_id
        receiver = receiver or one.node  # of one that never ended
    whose = tally.c.association_id == row.association_id, tally.c.study_instance_uid == row.study_instance_uid
    connection.execute(update(tally).where(*whose).values(audited=row.received))
    body = {
        "association": row.association_id,
        "called_ae": row.called_ae,
        "peer": row.peer,
        **came.said(),
    }
    at = now if row.ended_at is None else min(row.ended_at, now)
    return Entry(at, "received", receiver or node, row.calling_ae, row.study_instance_uid, SUCCESS, body)


def delivered(
    connection: Connection, node: str, upto: int, place_of: Callable[[str], Mapping[str, str]]
) -> tuple[list[Entry], bool]:
    """What was delivered or became a dead letter by attempts up to this id, and whether there are more of them."""
    done = position(connection)
    end = min(upto, done + 10 * MOST)
    if end <= done:
        return [], False
    rows = connection.execute(
        select(
            delivery.c.association_id,
            delivery.c.study_instance_uid,
            delivery.c.destination,
            attempt.c.outcome,
            attempt.c.status,
            instance.c.sop_class_uid,
            func.count().label("number"),
            func.max(attempt.c.finished_at).label("at"),
            func.max(instance.c.patient_id).label("patient_id"),
        )
        .join_from(attempt, delivery, attempt.c.delivery_id == delivery.c.id)
        .join(instance, delivery.c.instance_id == instance.c.id)
        .where(attempt.c.id > done, attempt.c.id <= end, attempt.c.outcome.in_([str(one) for one in _TOLD]))
        .group_by(
            delivery.c.association_id,
            delivery.c.study_instance_uid,
            delivery.c.destination,
            attempt.c.outcome,
            attempt.c.status,
            instance.c.sop_class_uid,
        )
    )
    groups: dict[tuple[str, str, str, str], _Transfer] = {}
    for row in rows:
        key = (row.association_id, row.study_instance_uid, row.destination, _TOLD[State(row.outcome)])
        went = groups.setdefault(key, _Transfer())
        went.count += row.number
        went.at = max(went.at, row.at)
        went.patient_id = went.patient_id or row.patient_id
        went.classes[row.sop_class_uid] = went.classes.get(row.sop_class_uid, 0) + row.number
        if key[3] == "failed":
            went.status = row.status if went.status is None else went.status
    entries = [
        Entry(
            went.at,
            kind,
            node,
            destination,
            study,
            SUCCESS if kind == "delivered" else SERIOUS,
            {"destination": destination, **place_of(destination), "association": association_id, **went.said()},
        )
        for (association_id, study, destination, kind), went in sorted(groups.items())
    ]
    upsert(connection, audit_mark, [{"mark": ATTEMPTS, "position": end}], replace=("position",))
    return entries, end < upto


def refused(connection: Connection, node: str, now: float) -> list[Entry]:
    """Who was refused, as often as that is worth telling; marks it as told."""
    rows = connection.execute(
        select(association_log)
        .where(UNTOLD_REFUSED)
        .order_by(association_log.c.ended_at)
        .limit(MOST)
        .with_for_update(skip_locked=True)
    ).all()
    entries = []
    for row in rows:
        harmless = row.outcome != "rejected" or row.word in HARMLESS
        if not harmless and not worth_telling(row.tries, row.audited, row.ended_at, now):
            continue
        connection.execute(
            update(association_log)
            .where(association_log.c.association_id == row.association_id)
            .values(audited=row.tries)
        )
        if harmless:
            continue
        body = {
            "association": row.association_id,
            "called_ae": row.called_ae,
            "peer": row.peer,
            "tls": bool(row.tls),
            "word": row.word,
            "reason": row.reason,
            "tries": row.tries,
        }
        # Never worse: whoever is refused got nowhere (PS3.15 A.5.3.11).
        outcome = MINOR if row.tries == 1 else SERIOUS
        entries.append(Entry(row.ended_at, "refused", row.node or node, row.calling_ae, "", outcome, body))
    return entries


def worth_telling(tries: int, told: int, last_at: float, now: float) -> bool:
    """Whether a refusal's number of tries is told again: at the first, when it has doubled, and when it is quiet."""
    return tries > told and (told == 0 or tries >= 2 * told or now - last_at >= QUIET_SECONDS)

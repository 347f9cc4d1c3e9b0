"""What people ask of deliveries: hold, release, retry, discard, resend, for whatever a selection fits.

Called by `JobStore`, inside its transactions, from the CLI: usually another process than the workers. `find` names
rows and changes nothing; `act` takes some of them, looks again (what changed meanwhile is left alone), and writes an
audit line with what was asked and what was done in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select, update
from sqlalchemy.engine import Row

from relaypacs.jobs.audit_rows import Entry, add
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.delivery import hasten, move, supersede
from relaypacs.jobs.inserts import insert_rows, upsert
from relaypacs.jobs.schema import LIVE, OWED, association, delivery, instance, state_in, tally
from relaypacs.jobs.states import SELECTS, Change, Verb
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import Acted, Found, Selection
from relaypacs.model import Routed, State

_CHANGES: Mapping[Verb, tuple[Change, Mapping[str, object]]] = {
    Verb.HOLD: (Change.HOLD, {"ready": False, "due_at": None}),
    Verb.RELEASE: (Change.RELEASE, {"ready": True}),
    Verb.DISCARD: (Change.DISCARD, {"ready": False, "due_at": None}),
}


def find(connection: Connection, verb: Verb, which: Selection) -> Found:
    """What `verb` would concern, oldest first. States it does not concern fit nothing."""
    if which.study == "":
        return Found((), {})
    if verb is Verb.RESEND:
        return Found(sorted(row.id for row in connection.execute(_instances(which))), {})
    states = SELECTS[verb] & (which.states or SELECTS[verb])
    if not states:
        return Found((), {})
    # Both conditions: the first is the index's own.
    found = select(delivery.c.id, delivery.c.destination, delivery.c.state).where(OWED, state_in(states))
    if which.destination is not None:
        found = found.where(delivery.c.destination == which.destination)
    if which.study is not None:
        of_study = select(instance.c.id).where(instance.c.study_instance_uid == storable(which.study))
        found = found.where(delivery.c.instance_id.in_(of_study))
    found = found.where(*_aged(delivery.c.queued_at, which))
    if which.calling_ae is not None:
        found = found.join_from(delivery, association).where(association.c.calling_ae == which.calling_ae)
    ids: list[int] = []
    counts: Counter[tuple[str, State]] = Counter()
    for delivery_id, destination, state in connection.execute(found):
        ids.append(delivery_id)
        counts[destination, State(state)] += 1
    # Sorted here: an ORDER BY makes SQLite read the whole table for its order.
    return Found(sorted(ids), counts)


def _instances(which: Selection) -> Select[tuple[int]]:
    found = select(instance.c.id).where(*_aged(instance.c.received_at, which))
    if which.study is not None:
        found = found.where(instance.c.study_instance_uid == storable(which.study))
    if which.calling_ae is not None:
        found = found.join_from(instance, association).where(association.c.calling_ae == which.calling_ae)
    if which.states:
        latest = (
            select(delivery.c.state)
            .where(delivery.c.instance_id == instance.c.id, delivery.c.destination == which.destination)
            .order_by(delivery.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        found = found.where(latest.in_(sorted(which.states)))
    return found


def _aged(column: ColumnElement[float], which: Selection) -> list[ColumnElement[bool]]:
    older = [column < which.before] if which.before is not None else []
    return older + ([column >= which.after] if which.after is not None else [])


def act(
    connection: Connection,
    verb: Verb,
    ids: Sequence[int],
    which: Selection,
    now: float,
    *,
    by: str = "",
    node: str = "",
) -> Acted:
    """Do it to those of `ids` that `verb` still concerns. ValueError for a resend that names no destination."""
    if verb is Verb.RESEND:
        if which.destination is None:
            raise ValueError("a resend needs the destination it goes to")
        acted = queue_anew(connection, [(one, which.destination, 0) for one in ids], now)
    elif verb is Verb.RETRY:
        acted = _retry(connection, ids, now)
    else:
        acted = Acted()
        change, values = _CHANGES[verb]
        ended = {"settled_at": now} if change is Change.DISCARD else {}
        for some in chunks(ids):
            _lock(connection, some)
            acted += Acted(connection.execute(move(change, **values, **ended).where(delivery.c.id.in_(some))).rowcount)
    _audit(connection, verb, which, acted, now, by=by, node=node)
    return acted


def _lock(connection: Connection, ids: Sequence[int]) -> None:
    """In the order of ids, so that two who act on the same rows wait for each other instead of for ever."""
    connection.execute(
        select(delivery.c.id).where(delivery.c.id.in_(ids)).order_by(delivery.c.id).with_for_update()
    ).all()


def _retry(connection: Connection, ids: Sequence[int], now: float) -> Acted:
    acted = Acted()
    for some in chunks(ids):
        _lock(connection, some)
        acted += Acted(connection.execute(hasten().where(delivery.c.id.in_(some))).rowcount)
        dead = connection.execute(
            select(delivery.c.instance_id, delivery.c.destination, delivery.c.priority)
            .where(delivery.c.id.in_(some), state_in([State.FAILED]))
            .order_by(delivery.c.id)
        ).all()
        acted += queue_anew(connection, [(row.instance_id, row.destination, row.priority) for row in dead], now)
    return acted


def queue_anew(
    connection: Connection,
    wanted: Sequence[tuple[int, str, int]],
    now: float,
    *,
    fallback_of: str = "",
    without_bytes: bool = False,
) -> Acted:
    """Queue instances (id, destination, priority), unless they are on their way there or their bytes are gone.

    `fallback_of`: in whose place. `without_bytes`: even if they are gone, for one who ends them at once.
    """
    columns = ("id", "association_id", "study_instance_uid", "node", "generation", "staged_key")
    rows = {}
    live: set[tuple[int, str]] = set()
    for ids in chunks(sorted({instance_id for instance_id, _, _ in wanted})):
        # Locked: their bytes stay, and nobody else queues them, until this is committed.
        found = select(*(instance.c[name] for name in columns)).where(instance.c.id.in_(ids)).order_by(instance.c.id)
        rows.update({row.id: row for row in connection.execute(found.with_for_update())})
        going = select(delivery.c.instance_id, delivery.c.destination).where(delivery.c.instance_id.in_(ids), LIVE)
        live |= {(row.instance_id, row.destination) for row in connection.execute(going)}
    known = [one for one in dict.fromkeys(wanted) if one[0] in rows]
    waiting = [one for one in known if one[:2] not in live]
    able = [one for one in waiting if without_bytes or _has_bytes(rows[one[0]])]
    acted = Acted(changed=len(able), already_live=len(known) - len(waiting), no_bytes=len(waiting) - len(able))
    if not able:
        return acted
    supersede(connection, [one[:2] for one in able], now)
    insert_rows(
        connection,
        delivery,
        [
            {
                "instance_id": instance_id,
                "association_id": rows[instance_id].association_id,
                "study_instance_uid": rows[instance_id].study_instance_uid,
                "destination": destination,
                "home": rows[instance_id].node,
                "state": State.QUEUED,
                "priority": priority,
                "study_at": now,
                "queued_at": now,
                "ready": True,
                "fallback_of": fallback_of,
            }
            for instance_id, destination, priority in able
        ],
    )
    for ids in chunks(sorted({instance_id for instance_id, _, _ in able})):
        connection.execute(update(instance).where(instance.c.id.in_(ids)).values(verdict=Routed.ROUTED))
    routed = Counter((rows[one[0]].association_id, rows[one[0]].study_instance_uid) for one in able)
    counts = [
        {"association_id": association_id, "study_instance_uid": study, "routed": count}
        for (association_id, study), count in sorted(routed.items())
    ]
    upsert(connection, tally, counts, add=("routed",))
    return acted


def _has_bytes(row: Row[Any]) -> bool:
    return row.generation is not None or row.staged_key is not None


def _audit(
    connection: Connection, verb: Verb, which: Selection, acted: Acted, now: float, *, by: str, node: str
) -> None:
    asked: dict[str, object] = {
        "destination": which.destination,
        "caller": which.calling_ae if which.calling_ae is None else storable(which.calling_ae),
        "states": sorted(which.states) or None,
        "before": which.before,
        "after": which.after,
    }
    body = {name: value for name, value in asked.items() if value is not None} | {"changed": acted.changed}
    add(connection, [Entry(now, verb.value, node, by, which.study or "", body=body)])

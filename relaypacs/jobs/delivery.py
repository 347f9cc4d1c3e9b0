"""Deliveries on their way: claimed under a lease, settled or given back under its token.

Called by `JobStore` for the forward workers, inside its transactions. Every change of state is `move`, which takes the
states it may start from out of `states.TRANSITIONS`. A settlement whose token is not the delivery's own any more (the
lease ended and another worker has it) changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Update, and_, bindparam, select, update
from sqlalchemy.engine import Row

from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.inserts import insert_rows
from relaypacs.jobs.schema import READY, TIMED, attempt, delivery, instance, state_in
from relaypacs.jobs.states import TRANSITIONS, Change
from relaypacs.model import Claim, Deferred, Delivered, Location, Scope, Settlement, State

WAKE_AT_ONCE = 1000
"""Deliveries whose time has come that one claim makes ready, so that it stays short after a long outage."""
_LEASED = and_(
    delivery.c.id == bindparam("key"),
    delivery.c.token == bindparam("fence"),
    delivery.c.lease == bindparam("mine"),
    delivery.c.state == "active",
)


def move(change: Change, **values: object) -> Update:
    """An UPDATE of every delivery (restrict it) that `change` may happen to, with `values` set besides the state."""
    sources, target = TRANSITIONS[change]
    return update(delivery).where(state_in(sources)).values(state=target, **values)


LOCATION = (
    "node",
    "generation",
    "file_offset",
    "file_length",
    "dataset_offset",
    "dataset_length",
    "dataset_crc32c",
    "staged_key",
)
"""The columns of `model.Location`, in its order."""


def _claimable() -> Select[Any]:
    return select(
        delivery.c.id,
        delivery.c.instance_id,
        delivery.c.destination,
        delivery.c.token,
        delivery.c.attempts,
        delivery.c.queued_at,
        delivery.c.priority,
        delivery.c.study_at,
        delivery.c.study_instance_uid,
        delivery.c.association_id,
        instance.c.sop_class_uid,
        instance.c.sop_instance_uid,
        instance.c.transfer_syntax_uid,
        *(instance.c[name] for name in LOCATION),
    ).join_from(delivery, instance)


# Made once: what every batch asks costs more to build than to answer.
_AMONG = delivery.c.id.in_(bindparam("ids", expanding=True))
_NEXT = (
    _claimable()
    .where(delivery.c.destination == bindparam("to"), delivery.c.home == bindparam("of_node"), READY)
    .order_by(delivery.c.priority.desc(), delivery.c.study_at, delivery.c.study_instance_uid, delivery.c.id)
    .limit(bindparam("most"))
    .with_for_update(of=delivery, skip_locked=True)
)
_CLAIM = move(
    Change.CLAIM, token=delivery.c.token + 1, lease=bindparam("lease"), ready=False, due_at=bindparam("due_at")
).where(_AMONG)
_OVERDUE = (
    select(delivery.c.id)
    .where(delivery.c.destination == bindparam("to"), TIMED, delivery.c.due_at <= bindparam("now"))
    .order_by(delivery.c.due_at)
    .limit(WAKE_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_TOKENS = (
    select(delivery.c.id, delivery.c.token, delivery.c.lease, delivery.c.state)
    .where(_AMONG)
    # As everybody who locks several: two then wait for each other in turn, and not for ever.
    .order_by(delivery.c.id)
    .with_for_update()
)
_HERE = delivery.c.destination == bindparam("to")
_MINE = delivery.c.home.in_(bindparam("homes", expanding=True))
_ANY_READY = {own: select(delivery.c.id).where(_HERE, *[_MINE][:own], READY).limit(1) for own in (False, True)}
_FIRST_DUE = {
    own: select(delivery.c.due_at).where(_HERE, *[_MINE][:own], TIMED).order_by(delivery.c.due_at).limit(1)
    for own in (False, True)
}


def claim(
    connection: Connection,
    destination: str,
    *,
    homes: Sequence[str],
    limit: int,
    due_at: float,
    lease: int,
    now: float,
) -> list[Claim]:
    """Lease up to `limit` deliveries until `due_at`: by priority, a study at a time, the one that waits longest first.

    Of those homes only. `lease` is a number nobody else uses.
    """
    _wake(connection, destination, now)
    rows: list[Row[Any]] = []
    # A query for each home: the index gives one home's deliveries in their order, not those of several.
    for home in homes:
        rows += connection.execute(_NEXT, {"to": destination, "of_node": home, "most": limit}).all()
    if len(homes) > 1:
        rows = sorted(rows, key=lambda row: (-row.priority, row.study_at, row.study_instance_uid, row.id))[:limit]
    for ids in chunks(row.id for row in rows):
        connection.execute(_CLAIM, {"ids": ids, "lease": lease, "due_at": due_at})
    return [_claim(row, row.token + 1, lease) for row in rows]


def claimed(
    connection: Connection, destination: str, *, homes: Sequence[str], due_at: float, lease: int
) -> list[Claim]:
    """What `claim` leased with the same values, if it did: its answer may have been lost."""
    rows = connection.execute(
        _claimable()
        .where(delivery.c.destination == destination, delivery.c.home.in_(homes), TIMED, delivery.c.due_at == due_at)
        .where(delivery.c.lease == lease, state_in([State.ACTIVE]))
        .order_by(delivery.c.id)
    )
    return [_claim(row, row.token, lease) for row in rows]


def _claim(row: Row[Any], token: int, lease: int) -> Claim:
    return Claim(
        delivery_id=row.id,
        instance_id=row.instance_id,
        token=token,
        destination=row.destination,
        attempts=row.attempts,
        first_queued_at=row.queued_at,
        priority=row.priority,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        association_id=row.association_id,
        location=Location(*row[-len(LOCATION) :]),
        lease=lease,
    )


def _wake(connection: Connection, destination: str, now: float) -> None:
    """Make ready what has waited long enough: deferrals whose time has come, leases that have ended."""
    ids = connection.scalars(_OVERDUE, {"to": destination, "now": now}).all()
    if ids:
        connection.execute(update(delivery).where(delivery.c.id.in_(ids)).values(ready=True, due_at=None))


def hasten() -> Update:
    """An UPDATE of every deferred delivery (restrict it) that makes it ready now."""
    return update(delivery).where(state_in([State.DEFERRED]), TIMED).values(ready=True, due_at=None)


def next_due(connection: Connection, destination: str, *, homes: Sequence[str], now: float) -> float | None:
    """When something can next be claimed: `now` if it can already, else a time in seconds; None if nothing waits.

    Of those homes only; of all if none is given.
    """
    here = {"to": destination, "homes": homes} if homes else {"to": destination}
    if connection.scalar(_ANY_READY[bool(homes)], here) is not None:
        return now
    due: float | None = connection.scalar(_FIRST_DUE[bool(homes)], here)
    return due


def renew(connection: Connection, claims: Sequence[Claim], *, due_at: float) -> None:
    """Lengthen the leases that are still the claims' own."""
    connection.execute(update(delivery).where(_LEASED).values(ready=False, due_at=due_at), _keys(claims))


def give_back(connection: Connection, claims: Sequence[Claim]) -> None:
    """Return claims to the state they were claimed from, ready at once, with no attempt counted."""
    for ids in chunks(sorted({claim.delivery_id for claim in claims})):
        connection.execute(_TOKENS, {"ids": ids})  # locked, in order
    untried = [claim for claim in claims if claim.attempts == 0]
    tried = [claim for claim in claims if claim.attempts > 0]
    for change, some in ((Change.RETURN_UNTRIED, untried), (Change.RETURN, tried)):
        if some:
            connection.execute(move(change, ready=True, due_at=None).where(_LEASED), _keys(some))


def settle(connection: Connection, settlements: Sequence[Settlement], now: float, *, shift: float) -> int:
    """Write how claims ended, and an attempt of each that was tried; returns how many took effect.

    A deferral without a next time is a dead letter; with one it waits until then, `shift` seconds later by the
    database's clock.
    """
    tokens: dict[int, tuple[int, int]] = {}
    for ids in chunks(sorted({one.claim.delivery_id for one in settlements})):
        # Found by their keys alone: an index of what is active may hold everything that waits.
        found = connection.execute(_TOKENS, {"ids": ids})
        tokens.update((row.id, (row.token, row.lease)) for row in found if row.state == State.ACTIVE)
    # What has the same values is one UPDATE. The rows are locked and their tokens looked at: nothing comes in between.
    ended: dict[tuple[_Deed, tuple[tuple[str, object], ...]], list[int]] = {}
    effective = 0
    attempts: list[dict[str, object]] = []
    for one in settlements:
        # Taken out, so that the same claim settled twice counts once.
        if tokens.get(one.claim.delivery_id) != (one.claim.token, one.claim.lease):
            continue
        del tokens[one.claim.delivery_id]
        effective += 1
        change, values, tried = _ended(one, now, shift)
        was_tried = not (isinstance(one.outcome, Deferred) and one.outcome.scope is Scope.NODE)
        ended.setdefault(((change, was_tried), tuple(values.items())), []).append(one.claim.delivery_id)
        if was_tried:
            attempts.append(tried)
    single: dict[_Deed, list[dict[str, object]]] = {}
    for (deed, same), keys in ended.items():
        if len(keys) == 1:
            single.setdefault(deed, []).append({"key": keys[0], **dict(same)})
            continue
        for ids in chunks(keys):
            connection.execute(_counted(deed, at_once=True), {"ids": ids, **dict(same)})
    for deed, rows in single.items():
        connection.execute(_counted(deed, at_once=False), rows)
    if attempts:
        insert_rows(connection, attempt, attempts)
    return effective


_Deed = tuple[Change, bool]
"""What happens to a delivery, and whether it was tried."""


@cache
def _counted(deed: _Deed, *, at_once: bool) -> Update:
    """An UPDATE of deliveries whose claim has ended, of many or of one; the values come as parameters."""
    change, was_tried = deed
    parameters: dict[str, object] = {name: bindparam(name) for name in _ENDED}
    counted = move(change, attempts=delivery.c.attempts + int(was_tried), ready=False, **parameters)
    return counted.where(_AMONG if at_once else delivery.c.id == bindparam("key"))


_ENDED = ("status", "reason", "warning", "due_at", "settled_at")


def _ended(one: Settlement, now: float, shift: float) -> tuple[Change, dict[str, object], dict[str, object]]:
    """What a settlement changes, the values of the delivery and the row of the attempt."""
    outcome = one.outcome
    values: dict[str, object] = {
        "status": outcome.status,
        "reason": "",
        "warning": False,
        "due_at": None,
        "settled_at": now,
    }
    scope = ""
    if isinstance(outcome, Delivered):
        change = Change.DELIVER
        values["warning"] = outcome.warning
    else:
        values["reason"] = outcome.reason
        change = Change.FAIL
        if isinstance(outcome, Deferred):
            scope = outcome.scope
            if one.retry_at is not None:
                change = Change.DEFER
                values |= {"due_at": one.retry_at + shift, "settled_at": None}
    tried: dict[str, object] = {
        "delivery_id": one.claim.delivery_id,
        "number": one.claim.attempts + 1,
        "started_at": one.started_at,
        "finished_at": one.finished_at,
        "outcome": TRANSITIONS[change][1],
        "scope": scope,
        "status": outcome.status,
        "reason": values["reason"],
    }
    return change, values, tried


def supersede(connection: Connection, failed: Iterable[tuple[int, str]], now: float) -> None:
    """Close dead letters, by (instance id, destination), that are queued anew: a new delivery answers them."""
    rows = [{"instance_key": instance_id, "to": destination} for instance_id, destination in failed]
    if rows:
        connection.execute(
            move(Change.SUPERSEDE, settled_at=now).where(
                delivery.c.instance_id == bindparam("instance_key"), delivery.c.destination == bindparam("to")
            ),
            rows,
        )


def _keys(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """In the order in which rows are locked."""
    ordered = sorted(claims, key=lambda claim: claim.delivery_id)
    return [{"key": claim.delivery_id, "fence": claim.token, "mine": claim.lease} for claim in ordered]

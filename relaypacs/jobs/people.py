"""What people ask of deliveries: a study sent again, held ones let go, deliveries given up. Each leaves an audit line.

Called by `JobStore`, inside its transaction, from the CLI: usually another process than the workers, who find what is
new when they next look.
"""

from __future__ import annotations

import json
from collections import Counter

from sqlalchemy import Connection, Update, exists, insert, select, update

from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.delivery import move, supersede
from relaypacs.jobs.dialect import upsert
from relaypacs.jobs.schema import LIVE, audit, delivery, instance, tally
from relaypacs.jobs.states import Change
from relaypacs.jobs.values import Resent
from relaypacs.model import Routed, State


def resend(connection: Connection, study_instance_uid: str, destination: str, now: float) -> Resent:
    """Queue every instance of the study for the destination, unless it is on its way there or its bytes are gone.

    An empty UID is no study: instances without one have nothing in common.
    """
    if not study_instance_uid:
        return Resent(0, 0, 0)
    live = exists().where(delivery.c.instance_id == instance.c.id, delivery.c.destination == destination, LIVE)
    rows = connection.execute(
        select(
            instance.c.id,
            instance.c.association_id,
            instance.c.node,
            instance.c.generation,
            instance.c.staged_key,
            live.label("live"),
        )
        .where(instance.c.study_instance_uid == study_instance_uid)
        .order_by(instance.c.id)
        .with_for_update(of=instance)
    ).all()
    waiting = [row for row in rows if not row.live]
    able = [row for row in waiting if row.generation is not None or row.staged_key is not None]
    resent = Resent(queued=len(able), already_live=len(rows) - len(waiting), no_bytes=len(waiting) - len(able))
    if able:
        supersede(connection, ((row.id, destination) for row in able), now)
        connection.execute(
            insert(delivery),
            [
                {
                    "instance_id": row.id,
                    "association_id": row.association_id,
                    "study_instance_uid": study_instance_uid,
                    "destination": destination,
                    "home": row.node,
                    "state": State.QUEUED,
                    "study_at": now,
                    "queued_at": now,
                    "ready": True,
                }
                for row in able
            ],
        )
        for ids in chunks(row.id for row in able):
            connection.execute(update(instance).where(instance.c.id.in_(ids)).values(verdict=Routed.ROUTED))
        routed = Counter(row.association_id for row in able)
        upsert(
            connection,
            tally,
            [
                {"association_id": association_id, "study_instance_uid": study_instance_uid, "routed": count}
                for association_id, count in routed.items()
            ],
            add=("routed",),
        )
    body = {"study": study_instance_uid, "destination": destination, "queued": resent.queued}
    _audit(connection, "resend", body, now)
    return resent


def release(connection: Connection, study_instance_uid: str, destination: str, now: float) -> int:
    """Let the study's held deliveries to the destination go; returns how many."""
    return _change(connection, "release", move(Change.RELEASE, ready=True), study_instance_uid, destination, now=now)


def discard(connection: Connection, study_instance_uid: str, destination: str, now: float) -> int:
    """Give the study's waiting, held and failed deliveries to the destination up; returns how many."""
    statement = move(Change.DISCARD, ready=False, due_at=None, settled_at=now)
    return _change(connection, "discard", statement, study_instance_uid, destination, now=now)


def _change(
    connection: Connection, kind: str, statement: Update, study_instance_uid: str, destination: str, *, now: float
) -> int:
    if not study_instance_uid:
        return 0
    of_study = select(instance.c.id).where(instance.c.study_instance_uid == study_instance_uid)
    changed = connection.execute(
        statement.where(delivery.c.instance_id.in_(of_study), delivery.c.destination == destination)
    ).rowcount
    _audit(connection, kind, {"study": study_instance_uid, "destination": destination, "deliveries": changed}, now)
    return changed


def _audit(connection: Connection, kind: str, body: dict[str, object], now: float) -> None:
    connection.execute(insert(audit), {"at": now, "kind": kind, "body": json.dumps(body)})

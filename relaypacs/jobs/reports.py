"""What people and metrics ask: what waits where, and where an object is.

Called by `JobStore`, each in one read transaction. `queue` reads the entries of what is owed, not of what was ever
delivered; `trace` takes one index look-up per kind of term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, func, select, union
from sqlalchemy.engine import Row

from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.schema import (
    HAS_ACCESSION,
    HAS_PATIENT,
    OWED,
    TIMED,
    association,
    delivery,
    instance,
)
from relaypacs.jobs.states import PENDING_STATES
from relaypacs.jobs.values import QueueRow, TraceDelivery, TraceRow
from relaypacs.model import Routed, State


def queue(connection: Connection, now: float, *, next_attempts: bool = False) -> list[QueueRow]:
    """What each destination is owed, by name; with `next_attempts` when the first deferred one is tried, and why the
    dead letter queued last is one."""
    counts: dict[str, dict[State, int]] = {}
    oldest: dict[str, float] = {}
    for destination, name, count, since in connection.execute(
        select(delivery.c.destination, delivery.c.state, func.count(), func.min(delivery.c.queued_at))
        .where(OWED)
        .group_by(delivery.c.destination, delivery.c.state)
    ):
        state = State(name)
        counts.setdefault(destination, {})[state] = count
        if state in PENDING_STATES:
            oldest[destination] = min(since, oldest.get(destination, since))
    rows = [
        QueueRow(
            destination=destination,
            counts=states,
            oldest_seconds=max(0.0, now - oldest[destination]) if destination in oldest else None,
        )
        for destination, states in sorted(counts.items())
    ]
    return [_with_failed(connection, _with_next_attempt(connection, row)) for row in rows] if next_attempts else rows


def _with_next_attempt(connection: Connection, row: QueueRow) -> QueueRow:
    """By the entries of what has a time, so that few are looked at."""
    if not row.counts.get(State.DEFERRED):
        return row
    first = connection.execute(
        select(delivery.c.due_at, delivery.c.reason)
        .where(delivery.c.destination == row.destination, TIMED, delivery.c.state == State.DEFERRED)
        .order_by(delivery.c.due_at)
        .limit(1)
    ).first()
    return row if first is None else replace(row, next_attempt_at=first.due_at, reason=first.reason)


def _with_failed(connection: Connection, row: QueueRow) -> QueueRow:
    if not row.counts.get(State.FAILED):
        return row
    newest = connection.execute(
        select(delivery.c.reason, delivery.c.study_instance_uid)
        .where(delivery.c.destination == row.destination, OWED, delivery.c.state == State.FAILED)
        .order_by(delivery.c.queued_at.desc())
        .limit(1)
    ).first()
    if newest is None:
        return row
    return replace(row, failed_reason=newest.reason, failed_study=newest.study_instance_uid)


def trace(connection: Connection, term: str, limit: int) -> list[TraceRow]:
    """Instances known by `term`, oldest first, at most `limit`, each with all its deliveries."""
    if not term:
        return []
    found = union(
        select(instance.c.id).where(instance.c.study_instance_uid == term),
        select(instance.c.id).where(instance.c.series_instance_uid == term),
        select(instance.c.id).where(instance.c.sop_instance_uid == term),
        select(instance.c.id).where(instance.c.accession_number == term, HAS_ACCESSION),
        select(instance.c.id).where(instance.c.patient_id == term, HAS_PATIENT),
    )
    rows = connection.execute(
        select(instance, association.c.calling_ae, association.c.called_ae, association.c.peer)
        .join_from(instance, association)
        .where(instance.c.id.in_(found.scalar_subquery()))
        .order_by(instance.c.id)
        .limit(limit)
    ).all()
    deliveries: dict[int, list[TraceDelivery]] = {}
    for ids in chunks(row.id for row in rows):
        for one in connection.execute(select(delivery).where(delivery.c.instance_id.in_(ids)).order_by(delivery.c.id)):
            deliveries.setdefault(one.instance_id, []).append(_delivery(one))
    return [_instance(row, deliveries.get(row.id, ())) for row in rows]


def _delivery(row: Row[*tuple[object, ...]]) -> TraceDelivery:
    return TraceDelivery(
        delivery_id=row.id,
        destination=row.destination,
        state=State(row.state),
        priority=row.priority,
        queued_at=row.queued_at,
        attempts=row.attempts,
        reason=row.reason,
        status=row.status,
        warning=row.warning,
        next_attempt_at=row.due_at if row.state == State.DEFERRED else None,
        settled_at=row.settled_at,
        fallback_of=row.fallback_of,
    )


def _instance(row: Row[*tuple[object, ...]], deliveries: Sequence[TraceDelivery]) -> TraceRow:
    return TraceRow(
        instance_id=row.id,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        accession_number=row.accession_number,
        patient_id=row.patient_id,
        study_date=row.study_date,
        modality=row.modality,
        received_at=row.received_at,
        association_id=row.association_id,
        calling_ae=row.calling_ae,
        called_ae=row.called_ae,
        peer=row.peer,
        verdict=Routed(row.verdict),
        rule=row.rule,
        conflict=row.conflict,
        problem=row.problem,
        node=row.node,
        in_spool=row.generation is not None,
        staged=row.staged_key is not None,
        deliveries=tuple(deliveries),
    )

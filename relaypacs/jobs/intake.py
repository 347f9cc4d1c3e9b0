"""Takes received objects in: instances, deliveries, tallies and checkpoints, all in the caller's one transaction.

Called by `JobStore.take_in` for the node's intake. The whole batch is decided in memory, in the order of arrival, from
three queries (what is known of these UIDs, what is owed of them, which studies are being sent), and then written with
one statement per table. Because the checkpoints are in the same transaction, a replayed batch is either not read again
or was never counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, func, select, true, update

from relaypacs.errors import RowsLost
from relaypacs.failpoint import reach
from relaypacs.jobs import associations
from relaypacs.jobs.batch import Batch, Leased, Version
from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.delivery import LOCATION, supersede
from relaypacs.jobs.dialect import may_lose_commits
from relaypacs.jobs.inserts import insert_numbered, insert_rows, upsert
from relaypacs.jobs.schema import LIVE, NOT_OVER, UNSTAGED, association, checkpoint, delivery, instance, tally
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import Arrival, AssociationEnd, TakenIn
from relaypacs.model import Checkpoint, Claim, Location, State

_TALLIES = ("received", "duplicates", "dropped", "unrouted", "routed")

# Made once: what is asked of every batch costs more to build than to answer.
_ENDS = select(checkpoint.c.generation, checkpoint.c.end).where(
    checkpoint.c.node == bindparam("of_node"), checkpoint.c.generation.in_(bindparam("segments", expanding=True))
)
_STATES = (
    select(delivery.c.instance_id, delivery.c.destination, delivery.c.state)
    .where(delivery.c.instance_id.in_(bindparam("ids", expanding=True)))
    .order_by(delivery.c.id)
)
_SINCE = (
    select(delivery.c.study_instance_uid, delivery.c.destination, func.min(delivery.c.study_at))
    .where(delivery.c.study_instance_uid.in_(bindparam("uids", expanding=True)), LIVE)
    .group_by(delivery.c.study_instance_uid, delivery.c.destination)
)


def _versions(*, shared: bool) -> Select[Any]:
    """What is stored under `uids`, oldest first, as `of_node` sees it."""
    # A file that another node has announced or deletes in its own folder is that one's to finish.
    idle = true() if shared else instance.c.purging_key.is_(None)
    return (
        select(
            instance.c.id,
            instance.c.sop_instance_uid,
            instance.c.digest,
            instance.c.association_id,
            association.c.calling_ae,
            instance.c.study_instance_uid,
            instance.c.node,
            instance.c.verdict,
            instance.c.conflict,
            (instance.c.generation.is_not(None) | instance.c.staged_key.is_not(None)).label("has_bytes"),
            and_(UNSTAGED, instance.c.node != bindparam("of_node"), idle).label("elsewhere"),
        )
        .join_from(instance, association)
        .where(instance.c.sop_instance_uid.in_(bindparam("uids", expanding=True)))
        .order_by(instance.c.id)
        # Their bytes stay where they are seen to be until this is committed.
        .with_for_update(of=instance)
    )


_VERSIONS = {shared: _versions(shared=shared) for shared in (False, True)}


def take_in(
    connection: Connection,
    node: str,
    arrivals: Sequence[Arrival],
    ends: Sequence[AssociationEnd],
    checkpoints: Sequence[Checkpoint],
    *,
    now: float,
    identifiers: bool,
    shared: bool,
    leased: Leased | None = None,
) -> TakenIn:
    """Write everything that `arrivals` and `ends` come to, and how far the segments have been read.

    What a stored checkpoint covers is left out: a batch may come a second time whose commit succeeded though the
    answer was lost. `shared`: staging is.
    """
    read_to = _read_to(connection, node, {one.generation for one in checkpoints})
    arrivals = [one for one in arrivals if one.record.at.end > read_to.get(one.record.at.generation, 0)]
    checkpoints = [one for one in checkpoints if one.end > read_to.get(one.generation, -1)]
    batch = Batch(node, now, _known(connection, node, arrivals, shared=shared), identifiers)
    for arrival in arrivals:
        batch.add(arrival)
    _write_associations(connection, arrivals, [end for end in ends if end.admitted])
    associations.write(connection, node, ends)
    _write_instances(connection, batch)
    reach("jobs.mid-take-in")
    _move_home(connection, node, batch.moved)
    claims = _write_deliveries(connection, batch, leased)
    upsert(
        connection,
        tally,
        [
            {"association_id": association_id, "study_instance_uid": study, **{name: counts[name] for name in _TALLIES}}
            for (association_id, study), counts in batch.tallies.items()
        ],
        add=_TALLIES,
    )
    reach("jobs.checkpoint")
    upsert(
        connection,
        checkpoint,
        [
            {"node": node, "generation": one.generation, "end": one.end, "number": one.number, "chain": one.chain}
            for one in checkpoints
        ],
        replace=("end", "number", "chain"),
    )
    return TakenIn(queued=dict(batch.queued), claims=claims, **batch.done)


def check_begun(connection: Connection, node: str, begun: Mapping[str, int]) -> None:
    """RowsLost unless what the caller took in of each segment (bytes) before now is still in the table."""
    begun = {generation: end for generation, end in begun.items() if end}
    if not begun or not may_lose_commits(connection):
        return
    read_to = _read_to(connection, node, set(begun))
    if any(read_to.get(generation, 0) < end for generation, end in begun.items()):
        raise RowsLost("The job table lacks rows that were committed to it; the database has failed over.")


def _read_to(connection: Connection, node: str, generations: set[str]) -> dict[str, int]:
    """The bytes of each segment that are taken in."""
    found: dict[str, int] = {}
    for some in chunks(generations):
        rows = connection.execute(_ENDS, {"of_node": node, "segments": some})
        found.update((row.generation, row.end) for row in rows)
    return found


def _known(connection: Connection, node: str, arrivals: Sequence[Arrival], *, shared: bool) -> dict[str, list[Version]]:
    """What is stored under the arrivals' UIDs, oldest first, with the deliveries of those that arrive again."""
    known: dict[str, list[Version]] = {}
    digests = {arrival.digest for arrival in arrivals}
    again: dict[int, Version] = {}
    for uids in chunks({storable(arrival.record.meta.sop_instance_uid): None for arrival in arrivals}):
        rows = connection.execute(_VERSIONS[shared], {"of_node": node, "uids": uids})
        for row in rows:
            version = Version(
                digest=row.digest,
                association_id=row.association_id,
                calling_ae=row.calling_ae,
                study_instance_uid=row.study_instance_uid,
                home=row.node,
                verdict=row.verdict,
                conflict=row.conflict,
                has_bytes=bool(row.has_bytes),
                elsewhere=bool(row.elsewhere),
                id=row.id,
            )
            known.setdefault(row.sop_instance_uid, []).append(version)
            if row.digest in digests:
                again[row.id] = version
    for ids in chunks(again):
        for instance_id, destination, state in connection.execute(_STATES, {"ids": ids}):
            # The live one is the newest: while it lives no other is added.
            again[instance_id].states[destination] = State(state)
    return known


def _write_associations(connection: Connection, arrivals: Sequence[Arrival], ends: Sequence[AssociationEnd]) -> None:
    begun: dict[str, dict[str, object]] = {}
    for arrival in arrivals:
        meta = arrival.record.meta
        begun.setdefault(
            storable(meta.association_id),
            {
                "association_id": storable(meta.association_id),
                "calling_ae": storable(meta.calling_ae),
                "called_ae": storable(meta.called_ae),
                "peer": storable(meta.peer),
                "started_at": meta.received_at,
            },
        )
    upsert(connection, association, list(begun.values()))
    rows = [
        {
            "association_id": storable(end.association_id),
            "calling_ae": storable(end.calling_ae),
            "called_ae": storable(end.called_ae),
            "peer": storable(end.peer),
            "started_at": end.started_at,
            "ended_at": end.ended_at,
            "outcome": storable(end.outcome),
            "reason": storable(end.reason),
            "objects": end.objects,
            "bytes": end.bytes,
        }
        for end in ends
    ]
    upsert(connection, association, rows, replace=("started_at", "ended_at", "outcome", "reason", "objects", "bytes"))


def _write_instances(connection: Connection, batch: Batch) -> None:
    new: list[Version] = []
    changed: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for versions in batch.versions.values():
        for version in versions:
            if version.row is not None:
                new.append(version)
            elif version.changes:
                changed.setdefault(tuple(version.changes), []).append(version.changes | {"key": version.id})
    if new:
        rows = [one.row | one.changes for one in new if one.row is not None]
        ids = insert_numbered(connection, instance, rows)
        for version, instance_id in zip(new, ids, strict=True):
            version.id = instance_id
    # The same statement for all rows that change in the same columns.
    for changes in changed.values():
        connection.execute(update(instance).where(instance.c.id == bindparam("key")), changes)


def _move_home(connection: Connection, node: str, instance_ids: Sequence[int]) -> None:
    """What is not over of these instances is `node`'s to deliver; who has it claimed keeps it until the lease ends."""
    for ids in chunks(instance_ids):
        theirs = select(delivery.c.id).where(delivery.c.instance_id.in_(ids), NOT_OVER, delivery.c.home != node)
        found = connection.scalars(theirs.order_by(delivery.c.id).with_for_update()).all()
        for some in chunks(found):
            connection.execute(update(delivery).where(delivery.c.id.in_(some)).values(home=node))


def _write_deliveries(connection: Connection, batch: Batch, leased: Leased | None) -> list[Claim]:
    if not batch.deliveries:
        return []
    studies = {version.study_instance_uid for version, _ in batch.deliveries} - {""}
    since: dict[tuple[str, str], float] = {}
    for uids in chunks(studies):
        for study, destination, study_at in connection.execute(_SINCE, {"uids": uids}):
            since[study, destination] = study_at
    supersede(connection, batch.superseded, batch.now)
    if leased is not None:
        batch.lease(leased)
    rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    ours: list[Version] = []
    for version, row in batch.deliveries:
        first = since.get((row["study_instance_uid"], row["destination"]), batch.now)
        is_ours = row["state"] is State.ACTIVE
        rows[is_ours].append(row | {"instance_id": version.id, "study_at": first})
        ours += [version] * is_ours
    insert_rows(connection, delivery, rows[False])
    if not ours:
        return []
    ids = insert_numbered(connection, delivery, rows[True])
    return [_claim(version, row, key) for version, row, key in zip(ours, rows[True], ids, strict=True)]


def _claim(version: Version, row: Mapping[str, Any], delivery_id: int) -> Claim:
    """Of a new delivery of a new instance that is leased already."""
    of: Mapping[str, Any] = (version.row or {}) | version.changes
    return Claim(
        delivery_id=delivery_id,
        instance_id=row["instance_id"],
        token=row["token"],
        destination=row["destination"],
        attempts=0,
        first_queued_at=row["queued_at"],
        priority=row["priority"],
        sop_class_uid=of["sop_class_uid"],
        sop_instance_uid=of["sop_instance_uid"],
        study_instance_uid=row["study_instance_uid"],
        transfer_syntax_uid=of["transfer_syntax_uid"],
        association_id=row["association_id"],
        location=Location(*(of[name] for name in LOCATION)),
        lease=row["lease"],
    )


def checkpoints(connection: Connection, node: str) -> dict[str, Checkpoint]:
    """How far the node's segments have been taken in, by generation."""
    rows = connection.execute(select(checkpoint).where(checkpoint.c.node == node))
    return {row.generation: Checkpoint(row.generation, row.end, row.number, row.chain) for row in rows}

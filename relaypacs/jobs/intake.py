"""Takes received objects in: instances, deliveries, tallies and checkpoints, all in the caller's one transaction.

Called by `JobStore.take_in` for the node's intake. The whole batch is decided in memory, in the order of arrival, from
three queries (what is known of these UIDs, what is owed of them, which studies are being sent), and then written with
one statement per table. Because the checkpoints are in the same transaction, a replayed batch is either not read again
or was never counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from relaypacs.jobs.chunks import chunks
from relaypacs.jobs.delivery import supersede
from relaypacs.jobs.dialect import upsert
from relaypacs.jobs.schema import LIVE, association, checkpoint, delivery, instance, tally
from relaypacs.jobs.states import LIVE_STATES
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import Arrival, AssociationEnd, TakenIn
from relaypacs.model import Checkpoint, Routed, State

_TALLIES = ("received", "duplicates", "dropped", "unrouted", "routed")


@dataclass(slots=True, eq=False)
class _Version:
    """An instance: one set of bytes under a SOP Instance UID. `row` is what is to be inserted; None if it is there."""

    digest: str
    association_id: str
    calling_ae: str
    study_instance_uid: str
    home: str
    verdict: str
    conflict: bool
    has_bytes: bool
    id: int | None = None
    row: dict[str, object] | None = None
    changes: dict[str, object] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    """The state of the delivery that counts, by destination: the live one if there is one."""

    def flag(self) -> None:
        """Other bytes are known under the same UID."""
        if not self.conflict:
            self.conflict = True
            self.changes["conflict"] = True


class _Batch:
    """The decisions of one transaction, and the rows they come to."""

    def __init__(self, node: str, now: float, known: Mapping[str, list[_Version]], identifiers: bool) -> None:
        self.node, self.now, self.identifiers = node, now, identifiers
        self.versions: dict[str, list[_Version]] = dict(known)
        self.deliveries: list[tuple[_Version, dict[str, Any]]] = []
        self.superseded: list[tuple[int, str]] = []
        self.tallies: dict[tuple[str, str], Counter[str]] = {}
        self.queued: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def add(self, arrival: Arrival) -> None:
        """Decide what becomes of `arrival`, given everything before it."""
        meta = arrival.record.meta
        association_id = storable(meta.association_id)
        same_uid = self.versions.setdefault(storable(meta.sop_instance_uid), [])
        found = next((one for one in same_uid if one.digest == arrival.digest), None)
        if found is None:
            version = self._new_instance(arrival, association_id)
            same_uid.append(version)
            if len(same_uid) > 1:
                self.done["conflicts"] += 1
                for one in same_uid:
                    one.flag()
        else:
            version = found
            self._again(version, arrival)
        counts = self.tallies.setdefault((association_id, version.study_instance_uid), Counter())
        counts["received"] += 1
        self.done["instances" if found is None else "duplicates"] += 1
        counts["duplicates"] += found is not None
        if arrival.route.verdict is not Routed.ROUTED:
            counts[arrival.route.verdict] += 1
            self.done[arrival.route.verdict] += 1
            return
        held = _is_held(version, same_uid, arrival.conflict)
        for destination in dict.fromkeys(arrival.route.destinations):
            state = version.states.get(destination)
            if state in LIVE_STATES or (state is not None and arrival.resend == "suppress"):
                continue
            if state is State.FAILED and version.id is not None:
                self.superseded.append((version.id, destination))
            counts["routed"] += 1
            self._deliver(version, association_id, destination, arrival.route.priority, held)

    def _new_instance(self, arrival: Arrival, association_id: str) -> _Version:
        record, keys, meta = arrival.record, arrival.keys, arrival.record.meta
        row: dict[str, object] = {
            "association_id": association_id,
            "sop_instance_uid": storable(meta.sop_instance_uid),
            "digest": arrival.digest,
            "sop_class_uid": storable(meta.sop_class_uid),
            "transfer_syntax_uid": storable(meta.transfer_syntax_uid),
            "study_instance_uid": storable(keys.study_instance_uid),
            "series_instance_uid": storable(keys.series_instance_uid),
            "accession_number": storable(keys.accession_number) if self.identifiers else "",
            "patient_id": storable(keys.patient_id) if self.identifiers else "",
            "study_date": storable(keys.study_date),
            "modality": storable(keys.modality),
            "received_at": meta.received_at,
            "verdict": arrival.route.verdict,
            "rule": arrival.route.rule,
            "conflict": False,
            "problem": storable(keys.problem or ("" if keys.complete else "the head can't be read")),
            "staged_key": None,
            **self._location(arrival),
        }
        return _Version(
            digest=arrival.digest,
            association_id=association_id,
            calling_ae=storable(record.meta.calling_ae),
            study_instance_uid=storable(keys.study_instance_uid),
            home=self.node,
            verdict=arrival.route.verdict,
            conflict=False,
            has_bytes=True,
            row=row,
        )

    def _again(self, version: _Version, arrival: Arrival) -> None:
        """An identical object: it brings its bytes if they were gone, and its route if nobody wanted it before."""
        if not version.has_bytes:
            version.changes |= self._location(arrival)
            version.has_bytes, version.home = True, self.node
        if version.verdict == Routed.UNROUTED or arrival.route.verdict is Routed.ROUTED:
            if version.verdict != arrival.route.verdict:
                version.changes |= {"verdict": arrival.route.verdict, "rule": arrival.route.rule}
            version.verdict = arrival.route.verdict

    def _location(self, arrival: Arrival) -> dict[str, object]:
        record = arrival.record
        return {
            "node": self.node,
            "generation": record.at.generation,
            "file_offset": record.file_offset,
            "file_length": record.file_length,
            "dataset_offset": record.dataset_offset,
            "dataset_length": record.dataset_length,
            "dataset_crc32c": record.dataset_crc32c,
        }

    def _deliver(self, version: _Version, association_id: str, destination: str, priority: int, held: bool) -> None:
        state = State.HELD if held else State.QUEUED
        version.states[destination] = state
        row = {
            "association_id": association_id,
            "study_instance_uid": version.study_instance_uid,
            "destination": destination,
            "home": version.home,
            "state": state,
            "priority": priority,
            "study_at": self.now,
            "queued_at": self.now,
            "ready": not held,
        }
        self.deliveries.append((version, row))
        if held:
            self.done["held"] += 1
        else:
            self.queued[destination] += 1


def _is_held(version: _Version, same_uid: Sequence[_Version], policy: str) -> bool:
    """Whether the caller's conflict policy keeps `version` for a person; what came first is never held."""
    first = same_uid[0]
    if version is first or policy == "forward-both":
        return False
    return policy == "hold-newer" or version.calling_ae != first.calling_ae


def take_in(
    connection: Connection,
    node: str,
    arrivals: Sequence[Arrival],
    ends: Sequence[AssociationEnd],
    checkpoints: Sequence[Checkpoint],
    *,
    now: float,
    identifiers: bool,
) -> TakenIn:
    """Write everything that `arrivals` and `ends` come to, and how far the segments have been read.

    What a stored checkpoint covers is left out: a batch may come a second time whose commit succeeded though the
    answer was lost.
    """
    read_to = _read_to(connection, node, {one.generation for one in checkpoints})
    arrivals = [one for one in arrivals if one.record.at.end > read_to.get(one.record.at.generation, 0)]
    checkpoints = [one for one in checkpoints if one.end > read_to.get(one.generation, -1)]
    batch = _Batch(node, now, _known(connection, arrivals), identifiers)
    for arrival in arrivals:
        batch.add(arrival)
    _write_associations(connection, arrivals, ends)
    _write_instances(connection, batch)
    _write_deliveries(connection, batch)
    upsert(
        connection,
        tally,
        [
            {"association_id": association_id, "study_instance_uid": study, **{name: counts[name] for name in _TALLIES}}
            for (association_id, study), counts in batch.tallies.items()
        ],
        add=_TALLIES,
    )
    upsert(
        connection,
        checkpoint,
        [
            {"node": node, "generation": one.generation, "end": one.end, "number": one.number, "chain": one.chain}
            for one in checkpoints
        ],
        replace=("end", "number", "chain"),
    )
    return TakenIn(queued=dict(batch.queued), **batch.done)


def _read_to(connection: Connection, node: str, generations: set[str]) -> dict[str, int]:
    """The bytes of each segment that are taken in."""
    found: dict[str, int] = {}
    for some in chunks(generations):
        rows = connection.execute(
            select(checkpoint.c.generation, checkpoint.c.end).where(
                checkpoint.c.node == node, checkpoint.c.generation.in_(some)
            )
        )
        found.update((row.generation, row.end) for row in rows)
    return found


def _known(connection: Connection, arrivals: Sequence[Arrival]) -> dict[str, list[_Version]]:
    """What is stored under the arrivals' UIDs, oldest first, with the deliveries of those that arrive again."""
    known: dict[str, list[_Version]] = {}
    digests = {arrival.digest for arrival in arrivals}
    again: dict[int, _Version] = {}
    for uids in chunks({storable(arrival.record.meta.sop_instance_uid): None for arrival in arrivals}):
        rows = connection.execute(
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
            )
            .join_from(instance, association)
            .where(instance.c.sop_instance_uid.in_(uids))
            .order_by(instance.c.id)
        )
        for row in rows:
            version = _Version(
                digest=row.digest,
                association_id=row.association_id,
                calling_ae=row.calling_ae,
                study_instance_uid=row.study_instance_uid,
                home=row.node,
                verdict=row.verdict,
                conflict=row.conflict,
                has_bytes=bool(row.has_bytes),
                id=row.id,
            )
            known.setdefault(row.sop_instance_uid, []).append(version)
            if row.digest in digests:
                again[row.id] = version
    for ids in chunks(again):
        columns = (delivery.c.instance_id, delivery.c.destination, delivery.c.state)
        for instance_id, destination, state in connection.execute(
            select(*columns).where(delivery.c.instance_id.in_(ids)).order_by(delivery.c.id)
        ):
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


def _write_instances(connection: Connection, batch: _Batch) -> None:
    new: list[_Version] = []
    changed: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for versions in batch.versions.values():
        for version in versions:
            if version.row is not None:
                new.append(version)
            elif version.changes:
                changed.setdefault(tuple(version.changes), []).append(version.changes | {"key": version.id})
    if new:
        rows = [one.row | one.changes for one in new if one.row is not None]
        ids = connection.scalars(insert(instance).returning(instance.c.id, sort_by_parameter_order=True), rows)
        for version, instance_id in zip(new, ids, strict=True):
            version.id = instance_id
    # The same statement for all rows that change in the same columns.
    for changes in changed.values():
        connection.execute(update(instance).where(instance.c.id == bindparam("key")), changes)


def _write_deliveries(connection: Connection, batch: _Batch) -> None:
    if not batch.deliveries:
        return
    studies = {version.study_instance_uid for version, _ in batch.deliveries} - {""}
    since: dict[tuple[str, str], float] = {}
    for uids in chunks(studies):
        columns = (delivery.c.study_instance_uid, delivery.c.destination)
        for study, destination, study_at in connection.execute(
            select(*columns, func.min(delivery.c.study_at))
            .where(delivery.c.study_instance_uid.in_(uids), LIVE)
            .group_by(*columns)
        ):
            since[study, destination] = study_at
    supersede(connection, batch.superseded, batch.now)
    rows = []
    for version, row in batch.deliveries:
        first = since.get((row["study_instance_uid"], row["destination"]), batch.now)
        rows.append(row | {"instance_id": version.id, "study_at": first})
    connection.execute(insert(delivery), rows)


def checkpoints(connection: Connection, node: str) -> dict[str, Checkpoint]:
    """How far the node's segments have been taken in, by generation."""
    rows = connection.execute(select(checkpoint).where(checkpoint.c.node == node))
    return {row.generation: Checkpoint(row.generation, row.end, row.number, row.chain) for row in rows}

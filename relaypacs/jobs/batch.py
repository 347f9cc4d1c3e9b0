"""What a batch of received objects comes to: which are new, which are held, what is queued and what is counted.

Pure. `intake` gives it what is stored under the objects' UIDs, adds the objects in the order of arrival, and writes
the rows it has come to. DESIGN section 2 has the rules for identical objects and for other bytes under a known UID.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relaypacs.jobs.states import LIVE_STATES
from relaypacs.jobs.text import storable
from relaypacs.jobs.values import Arrival
from relaypacs.model import Routed, State


@dataclass(slots=True, eq=False)
class Version:
    """An instance: one set of bytes under a SOP Instance UID. `row` is what is to be inserted; None if it is there."""

    digest: str
    association_id: str
    calling_ae: str
    study_instance_uid: str
    home: str
    verdict: str
    conflict: bool
    has_bytes: bool
    elsewhere: bool = False
    """Its only bytes are in the spool of another node, which may never come back."""
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


class Leased(NamedTuple):
    """Which new deliveries are claimed as they are made: how many of each destination, under which lease, until when
    (seconds, by the database's clock)."""

    room: Mapping[str, int]
    lease: int
    due_at: float


class Batch:
    """The decisions of one transaction, and the rows they come to."""

    def __init__(self, node: str, now: float, known: Mapping[str, list[Version]], identifiers: bool) -> None:
        self.node, self.now, self.identifiers = node, now, identifiers
        self.versions: dict[str, list[Version]] = dict(known)
        self.deliveries: list[tuple[Version, dict[str, Any]]] = []
        self.superseded: list[tuple[int, str]] = []
        self.moved: list[int] = []
        """Instances whose deliveries are this node's now, as their bytes are."""
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
        held = arrival.hold or _is_held(version, same_uid, arrival.conflict)
        for destination in dict.fromkeys(arrival.route.destinations):
            state = version.states.get(destination)
            if state in LIVE_STATES or (state is not None and arrival.resend == "suppress"):
                continue
            if state is State.FAILED and version.id is not None:
                self.superseded.append((version.id, destination))
            counts["routed"] += 1
            self._deliver(version, association_id, destination, arrival.route.priority, held)

    def _new_instance(self, arrival: Arrival, association_id: str) -> Version:
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
            "staged_at": None,
            **self._location(arrival),
        }
        return Version(
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

    def _again(self, version: Version, arrival: Arrival) -> None:
        """An identical object: it brings its bytes if they were gone or at another node's mercy, though this node has
        answered for them; and its route if nobody wanted it before."""
        if not version.has_bytes or (version.elsewhere and arrival.staged_key is None):
            version.changes |= self._location(arrival)
            if version.id is not None:
                self.moved.append(version.id)
            version.has_bytes, version.elsewhere, version.home = True, False, self.node
        if version.verdict == Routed.UNROUTED or arrival.route.verdict is Routed.ROUTED:
            if version.verdict != arrival.route.verdict:
                version.changes |= {"verdict": arrival.route.verdict, "rule": arrival.route.rule}
            version.verdict = arrival.route.verdict

    def _location(self, arrival: Arrival) -> dict[str, object]:
        record = arrival.record
        staged = {} if arrival.staged_key is None else {"staged_key": arrival.staged_key, "staged_at": self.now}
        return {
            **staged,
            "node": self.node,
            "generation": record.at.generation if arrival.staged_key is None else None,
            "file_offset": record.file_offset,
            "file_length": record.file_length,
            "dataset_offset": record.dataset_offset,
            "dataset_length": record.dataset_length,
            "dataset_crc32c": record.dataset_crc32c,
        }

    def _deliver(self, version: Version, association_id: str, destination: str, priority: int, held: bool) -> None:
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

    def lease(self, leased: Leased) -> None:
        """Lease what the node's workers have room for: of new instances whose bytes are in its spool, the urgent ones
        first."""
        left = dict(leased.room)
        for version, row in sorted(self.deliveries, key=lambda one: -one[1]["priority"]):
            destination = row["destination"]
            here = version.row is not None and version.row["generation"] is not None and version.home == self.node
            if here and row["state"] is State.QUEUED and left.get(destination, 0) > 0:
                left[destination] -= 1
                self.queued[destination] -= 1
                row |= {
                    "state": State.ACTIVE,
                    "ready": False,
                    "token": 1,
                    "lease": leased.lease,
                    "due_at": leased.due_at,
                }


def _is_held(version: Version, same_uid: Sequence[Version], policy: str) -> bool:
    """Whether the caller's conflict policy keeps `version` for a person; what came first is never held."""
    first = same_uid[0]
    if version is first or policy == "forward-both":
        return False
    return policy == "hold-newer" or version.calling_ae != first.calling_ae

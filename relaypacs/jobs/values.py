"""What goes into the job table and what it answers, where `model` has no value for it.

Frozen, without behaviour. Times are seconds since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relaypacs.model import Claim, ObjectRecord, Route, Routed, RoutingKeys, State

ANYWHERE = ""
"""The home of what is in staging that all nodes share: any of them may claim it."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A received object with what intake found out about it."""

    record: ObjectRecord
    keys: RoutingKeys
    digest: str
    """SHA-256 (hexadecimal) of the dataset and its transfer syntax UID."""
    route: Route
    conflict: str
    """The caller's policy for other bytes under the same UID: forward-both, hold-newer or hold-if-other-source."""
    resend: str
    """The caller's policy for an identical object whose delivery is over: requeue or suppress."""
    staged_key: str | None = None
    """The object is in staging under this key, and not in a segment of the spool: it is restored, not received."""
    hold: bool = False
    """Nobody knows what became of its deliveries: they wait for a person."""


@dataclass(frozen=True, slots=True)
class AssociationEnd:
    """An association that ended, as its receive process saw it."""

    association_id: str
    calling_ae: str
    called_ae: str
    peer: str
    started_at: float
    ended_at: float
    outcome: str
    objects: int
    """Objects it committed to the spool."""
    bytes: int
    reason: str
    tls: bool = False
    word: str = ""
    """Why nothing could come of it, in a fixed word; empty if something could."""
    tries: int = 1
    """Of a refusal: how often it was asked for so far."""
    contexts: str = ""
    """What was proposed and accepted, as `dicom.proposals` writes it."""
    admitted: bool = True


@dataclass(frozen=True, slots=True)
class AtOnce:
    """New deliveries that are leased to the caller's workers in the transaction that makes them."""

    room: Mapping[str, int]
    """How many at most, by destination."""
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What one `take_in` did. `dropped` and `unrouted` count received objects, identical ones included."""

    queued: Mapping[str, int]
    """New deliveries that may be claimed, by destination."""
    instances: int = 0
    duplicates: int = 0
    dropped: int = 0
    unrouted: int = 0
    conflicts: int = 0
    """New instances whose UID was known with other bytes."""
    held: int = 0
    """New deliveries that wait for a person."""
    claims: Sequence[Claim] = ()
    """New deliveries that are the caller's own."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What one `restore` did."""

    instances: int
    """New rows."""
    found_again: int
    """Rows that had no staged copy and have this one now."""
    surplus: int
    """Objects that a row has another copy of; they are left as they are."""
    queued: Mapping[str, int]
    """New deliveries that may be claimed, by destination."""
    held: int
    """New deliveries that wait for a person."""


@dataclass(frozen=True, slots=True)
class Unstaged:
    """An instance whose only bytes are in the spool, with what staging needs of it."""

    instance_id: int
    generation: str
    file_offset: int
    file_length: int
    study_instance_uid: str
    sop_instance_uid: str
    digest: str
    study_date: str
    received_at: float
    association_id: str
    calling_ae: str
    called_ae: str
    peer: str


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What one destination is owed: deliveries per state, without those that are over well (delivered, discarded)."""

    destination: str
    counts: Mapping[State, int]
    oldest_seconds: float | None
    """Age of the oldest queued, active or deferred one; None without any."""
    next_attempt_at: float | None = None
    """When the first of those that are deferred is tried; None without any, or where it was not asked for."""
    reason: str = ""
    """What the last attempt of that one ended with."""
    failed_reason: str = ""
    """What the dead letter that was queued last ended with; empty without any, or where it was not asked for."""
    failed_study: str = ""
    """Its Study Instance UID."""


@dataclass(frozen=True, slots=True)
class TraceDelivery:
    """One delivery of a traced instance."""

    delivery_id: int
    destination: str
    state: State
    priority: int
    queued_at: float
    attempts: int
    reason: str
    """What the last attempt ended with; empty before the first."""
    status: int | None
    warning: bool
    next_attempt_at: float | None
    settled_at: float | None
    fallback_of: str = ""
    """The destination in whose place this one was given it."""


@dataclass(frozen=True, slots=True)
class TraceRow:
    """Where an instance came from, where its bytes are and how its deliveries stand, oldest first."""

    instance_id: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    accession_number: str
    patient_id: str
    study_date: str
    modality: str
    received_at: float
    association_id: str
    calling_ae: str
    called_ae: str
    peer: str
    verdict: Routed
    rule: str
    conflict: bool
    problem: str
    node: str
    in_spool: bool
    staged: bool
    deliveries: tuple[TraceDelivery, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """What a node finds when it starts."""

    leases_ended: int
    """Deliveries that were in flight when it last ended."""
    others: tuple[str, ...]
    """The names of the other nodes on this job table."""
    timeline: str = field(default="", compare=False)
    """Which history the database is in; empty where there is but one."""
    failed_over: bool = False
    """It is another than this node saw before: rows may be lost."""


@dataclass(frozen=True, slots=True)
class Drain:
    """What a node has said to being drained."""

    answers: int
    """How often it has answered this request; it does so every few seconds."""
    drained: bool
    """Whether no association is open and all of its spool has rows, by its last answer."""


@dataclass(frozen=True, slots=True)
class Left:
    """What a node has left to do that no other can."""

    pending: int
    held: int
    failed: int
    """Dead letters: their bytes are kept by this node."""
    segments: int
    """Of its spool, that hold records."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a person's verb is about: everything that every given part fits. An empty study fits nothing."""

    destination: str | None = None
    study: str | None = None
    calling_ae: str | None = None
    states: frozenset[State] = frozenset()
    """Empty: every state the verb concerns."""
    before: float | None = None
    """Queued (of instances sent again: received) before this time, seconds since the epoch."""
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a selection fits: ids of deliveries (of instances, where they are sent again), oldest first."""

    ids: Sequence[int]
    counts: Mapping[tuple[str, State], int]
    """Deliveries by destination and state; nothing where instances are sent again."""


@dataclass(frozen=True, slots=True)
class Acted:
    """What a verb did: to deliveries, or to instances where they are queued anew."""

    changed: int = 0
    already_live: int = 0
    """On their way to the destination already: left as they are."""
    no_bytes: int = 0
    """Whose bytes are no longer kept."""

    def __add__(self, other: Acted) -> Acted:
        return Acted(
            self.changed + other.changed, self.already_live + other.already_live, self.no_bytes + other.no_bytes
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The two equations (DESIGN section 2): received = instances + duplicates; routed = the sum of the states.

    `received`, `duplicates`, `dropped`, `unrouted` and `routed` are counted as objects arrive, the others from the
    rows. `imbalance` is by how many objects and deliveries the equations fail, plus by how many objects ended
    associations' own counts differ from `received`. 0 when intake has read everything.
    """

    received: int
    instances: int
    duplicates: int
    dropped: int
    unrouted: int
    routed: int
    delivered: int
    pending: int
    failed: int
    held: int
    discarded: int
    imbalance: int

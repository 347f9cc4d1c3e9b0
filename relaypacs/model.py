"""The values that travel between the rooms: what was received, where it lies, where it goes, how that ended.

Frozen and free of behaviour: dataclasses, and named tuples where one is made for each object received, as those cost a
third. Times are seconds since the Unix epoch, UTC. UIDs and AE titles are the peer's text with insignificant padding
removed, and are not assumed valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class ObjectMeta(NamedTuple):
    """What reception knows of an object before its first dataset byte: the association and the C-STORE-RQ command."""

    association_id: str
    calling_ae: str
    called_ae: str
    peer: str
    """`host:port` of the sender's socket."""
    received_at: float
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Committed(NamedTuple):
    """A record that is durable: which segment (by generation), which record of it, and where it ends (bytes)."""

    generation: str
    number: int
    offset: int
    end: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a segment has been read: continue at byte `end` with record `number`, whose predecessor's chain CRC is
    `chain`. `Checkpoint(generation)` is the start of a segment."""

    generation: str
    end: int = 0
    number: int = 0
    chain: int = 0


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """A received object as the spool holds it. Offsets are bytes from the start of the segment file.

    `file_offset, file_length` span the DICOM Part 10 file (preamble, File Meta, dataset);
    `dataset_offset, dataset_length` the dataset alone, exactly as it came off the wire.
    """

    at: Committed
    meta: ObjectMeta
    file_offset: int
    file_length: int
    dataset_offset: int
    dataset_length: int
    dataset_crc32c: int


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A small JSON record of the same log: an association that ended, an audit event."""

    at: Committed
    kind: str
    time: float
    body: Mapping[str, object]


Record = ObjectRecord | EventRecord


@dataclass(frozen=True, slots=True)
class Location:
    """Where an instance's bytes are: in a spool segment (`generation`, while hot), in staging (`staged_key`)."""

    node: str
    generation: str | None
    file_offset: int
    file_length: int
    dataset_offset: int
    dataset_length: int
    dataset_crc32c: int
    staged_key: str | None


@dataclass(frozen=True, slots=True)
class RoutingKeys:
    """The few head elements that rules and rows need. `complete` is False where the head could not be walked.

    `elements` holds every tag a rule asked for, keyed `"GGGGEEEE"` in upper-case hexadecimal.
    """

    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    accession_number: str = ""
    patient_id: str = ""
    study_date: str = ""
    modality: str = ""
    elements: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True
    problem: str = ""
    """Why `complete` is False, in a few words and without PHI."""


class Routed(StrEnum):
    """What the rules said of an instance."""

    ROUTED = "routed"
    DROPPED = "dropped"
    UNROUTED = "unrouted"


@dataclass(frozen=True, slots=True)
class Route:
    """The rules' answer: to which destinations, with which priority (higher first), by which rule."""

    verdict: Routed
    destinations: tuple[str, ...] = ()
    priority: int = 0
    rule: str = ""


class Scope(StrEnum):
    """Whom a delivery's trouble concerns: the whole destination, this instance alone, or neither: the node itself."""

    SITE = "site"
    INSTANCE = "instance"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has the instance. `status` is its C-STORE status (PS3.7 C) or 0; `warning` for Bxxx."""

    status: int = 0
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now. SITE: the destination is in trouble and the attempt says nothing of the instance. NODE: the bytes can't
    be had now, so nothing was tried, and no attempt is counted."""

    reason: str
    scope: Scope
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Never, as things stand: the destination refused this instance for good (dead letter)."""

    reason: str
    status: int | None = None


Outcome = Delivered | Deferred | Failed


class State(StrEnum):
    """A delivery's states (DESIGN section 6); the legal changes are a table in `jobs/states.py`."""

    QUEUED = "queued"
    ACTIVE = "active"
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    FAILED = "failed"
    HELD = "held"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery leased to a worker: settle it with the same `token` or not at all (fencing)."""

    delivery_id: int
    instance_id: int
    token: int
    destination: str
    attempts: int
    """Attempts already made before this one."""
    first_queued_at: float
    priority: int
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    association_id: str
    location: Location
    lease: int = 0
    """The number of the claim call, which the token alone might share with another's after a failover."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a claim ended. `retry_at` is set for a deferral that has a next time, by `policy.retry`."""

    claim: Claim
    outcome: Outcome
    started_at: float
    finished_at: float
    retry_at: float | None = None

"""What intake makes of one record: its head, its digest, the rules' answer.

An object whose head can't be read is routed by its association and flagged; nothing here fails for what a peer sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from prometheus_client import Counter

from relaypacs import log
from relaypacs.dicom.head import walk_head
from relaypacs.jobs.values import Arrival, AssociationEnd
from relaypacs.model import EventRecord, ObjectRecord, Route, Routed, RoutingKeys
from relaypacs.policy.routing import Router

HEAD_BYTES = 256 * 1024
"""How much of a dataset's beginning is looked at for routing keys."""
_HASH_CHUNK = 8 << 20

_UNPARSED = Counter(
    "relaypacs_intake_unparsed_total", "Objects routed by their association alone because the head can't be read."
)

View: TypeAlias = Callable[[int, int], memoryview]
"""`(offset, length)` in bytes to that part of a pinned segment."""


@dataclass(frozen=True, slots=True)
class CallerPolicy:
    """What a caller's entry says of identical and conflicting instances (`config.Caller`)."""

    conflict: str = "forward-both"
    resend: str = "requeue"


def digest_of(dataset: memoryview, transfer_syntax_uid: str) -> str:
    """SHA-256 (hexadecimal) over the dataset and its transfer syntax: what makes two receptions the same object."""
    sha = hashlib.sha256()
    for start in range(0, len(dataset), _HASH_CHUNK):
        sha.update(dataset[start : start + _HASH_CHUNK])
    sha.update(transfer_syntax_uid.encode("ascii", "replace"))
    return sha.hexdigest()


def checked_keys(keys: RoutingKeys, record: ObjectRecord) -> RoutingKeys:
    """`keys` with a problem noted where the dataset names another instance than the C-STORE-RQ did (PS3.4 B.2.3)."""
    for said, meant, what in (
        (keys.sop_instance_uid, record.meta.sop_instance_uid, "SOP Instance UID"),
        (keys.sop_class_uid, record.meta.sop_class_uid, "SOP Class UID"),
    ):
        if said and said != meant and not keys.problem:
            return replace(keys, problem=f"{what} of the dataset is not that of the C-STORE request")
    return keys


def association_ends(record: EventRecord) -> list[AssociationEnd]:
    """The associations that an event tells of: `associations`, or `association` of earlier versions; else none."""
    body = record.body
    if record.kind == "association":
        return [_end(body, {})]
    if record.kind != "associations":
        return []
    proposals = body.get("proposals")
    ends = body.get("ends")
    known = proposals if isinstance(proposals, Mapping) else {}
    return [_end(end, known) for end in ends if isinstance(end, Mapping)] if isinstance(ends, list) else []


def _end(said: Mapping[str, object], proposals: Mapping[str, object]) -> AssociationEnd:
    outcome = str(said["outcome"])
    return AssociationEnd(
        association_id=str(said["association_id"]),
        calling_ae=str(said["calling_ae"]),
        called_ae=str(said["called_ae"]),
        peer=str(said["peer"]),
        started_at=float(str(said["started_at"])),
        ended_at=float(str(said["ended_at"])),
        outcome=outcome,
        objects=int(str(said["objects"])),
        bytes=int(str(said["bytes"])),
        reason=str(said["reason"]),
        tls=said.get("tls") is True,
        word=str(said.get("word", "")),
        tries=int(str(said.get("tries", 1))),
        contexts=str(proposals.get(str(said.get("contexts", "")), "")),
        admitted=outcome != "rejected",
    )


ArrivalOf: TypeAlias = Callable[[ObjectRecord, View], Arrival]
"""What an `ArrivalReader` does."""


class ArrivalReader:
    """Turns object records into arrivals, by the rules and the callers' policies it was made with."""

    def __init__(self, router: Router, policy_of: Callable[[str, str], CallerPolicy]) -> None:
        """`policy_of(calling AE, peer)` gives a caller's policies; `peer` is HOST:PORT, or empty if nobody knows."""
        self._router, self._policy_of = router, policy_of

    def __call__(self, record: ObjectRecord, view: View) -> Arrival:
        """Parse, digest and route one record of the segment behind `view`."""
        syntax = record.meta.transfer_syntax_uid
        with view(record.dataset_offset, record.dataset_length) as dataset:
            digest = digest_of(dataset, syntax)
            with dataset[:HEAD_BYTES] as head:
                keys = self._keys(head, record)
        if not keys.complete:
            _UNPARSED.inc()
            log.event(
                log.WARNING,
                "object-unparsed",
                f"The head can't be read ({keys.problem}); routed by its association alone.",
                trace_id=record.meta.association_id,
                user_id=record.meta.calling_ae,
                instance=log.uid_hash(record.meta.sop_instance_uid),
            )
        policy = self._policy_of(record.meta.calling_ae, record.meta.peer)
        route = self._route(keys, record)
        return Arrival(record, keys, digest, route, conflict=policy.conflict, resend=policy.resend)

    def _keys(self, head: memoryview, record: ObjectRecord) -> RoutingKeys:
        try:
            return checked_keys(walk_head(head, record.meta.transfer_syntax_uid, self._router.wanted_tags), record)
        except Exception as bug:
            # One object must never hold up those behind it.
            _tell_bug("head-bug", bug, record)
            return RoutingKeys(complete=False, problem="an error of this program")

    def _route(self, keys: RoutingKeys, record: ObjectRecord) -> Route:
        try:
            return self._router.route(keys, record.meta)
        except Exception as bug:
            _tell_bug("routing-bug", bug, record)
            return Route(Routed.UNROUTED)


def _tell_bug(name: str, bug: Exception, record: ObjectRecord) -> None:
    log.event(
        log.CRITICAL,
        name,
        f"Unexpected {type(bug).__name__}; the object is kept and flagged. Report this.",
        trace_id=record.meta.association_id,
        instance=log.uid_hash(record.meta.sop_instance_uid),
    )

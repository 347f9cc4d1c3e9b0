"""Arrivals, ends and settlements as intake and the forward workers would make them, with every part to choose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from relaypacs.jobs.states import Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Acted, Arrival, AssociationEnd, Selection
from relaypacs.model import (
    Claim,
    Committed,
    Deferred,
    Delivered,
    Failed,
    ObjectMeta,
    ObjectRecord,
    Outcome,
    Route,
    Routed,
    RoutingKeys,
    Scope,
    Settlement,
)

NODE = "node-a"
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
SITE_DOWN = Deferred("connection refused", Scope.SITE)
REFUSED = Failed("0122 SOP class not supported", 0x0122)
SENT = Delivered()


def arrival(
    uid: str = "1.2.3.1",
    *,
    content: str | None = None,
    study: str = "1.2.3",
    to: Sequence[str] = ("pacs",),
    verdict: Routed | None = None,
    association: str = "assoc-1",
    calling_ae: str = "CT1",
    generation: str = "g1",
    at_end: int = 40_960,
    priority: int = 0,
    received_at: float = 100.0,
    conflict: str = "forward-both",
    resend: str = "requeue",
    keys: RoutingKeys | None = None,
    rule: str = "all",
) -> Arrival:
    """A received object; `content` stands for its bytes (the UID's own by default)."""
    digest = hashlib.sha256((content if content is not None else uid).encode("utf-8", "surrogatepass")).hexdigest()
    meta = ObjectMeta(
        association_id=association,
        calling_ae=calling_ae,
        called_ae="RELAYPACS",
        peer="10.0.0.7:40123",
        received_at=received_at,
        sop_class_uid=CT,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT_LE,
    )
    record = ObjectRecord(
        at=Committed(generation, 0, 4096, at_end),
        meta=meta,
        file_offset=5120,
        file_length=33_000,
        dataset_offset=5500,
        dataset_length=32_620,
        dataset_crc32c=0xDEADBEEF,
    )
    verdict = verdict or (Routed.ROUTED if to else Routed.UNROUTED)
    return Arrival(
        record=record,
        keys=keys
        or RoutingKeys(
            study_instance_uid=study,
            series_instance_uid=f"{study}.9" if study else "",
            sop_instance_uid=uid,
            sop_class_uid=CT,
            accession_number=f"ACC-{study}",
            patient_id=f"PID-{study}",
            study_date="20240229",
            modality="CT",
        ),
        digest=digest,
        route=Route(verdict, tuple(to) if verdict is Routed.ROUTED else (), priority, rule),
        conflict=conflict,
        resend=resend,
    )


def end(
    association: str = "assoc-1", *, objects: int, calling_ae: str = "CT1", ended_at: float = 200.0
) -> AssociationEnd:
    """An association's end that tells of `objects` committed."""
    return AssociationEnd(
        association_id=association,
        calling_ae=calling_ae,
        called_ae="RELAYPACS",
        peer="10.0.0.7:40123",
        started_at=99.0,
        ended_at=ended_at,
        outcome="released",
        objects=objects,
        bytes=objects * 32_620,
        reason="",
    )


def settled(
    claims: Iterable[Claim], outcome: Outcome = SENT, *, at: float = 500.0, retry_at: float | None = None
) -> list[Settlement]:
    """All `claims` ended with `outcome`."""
    return [Settlement(claim, outcome, at - 1.0, at, retry_at) for claim in claims]


def asked(store: JobStore, verb: Verb, which: Selection, now: float) -> Acted:
    """Do what `verb` says to all that `which` fits, as the command does."""
    return store.act(verb, store.find(verb, which).ids, which, now)


def resent(store: JobStore, study: str, destination: str, now: float) -> Acted:
    """Send a study to a destination again."""
    return asked(store, Verb.RESEND, Selection(destination, study), now)


def discarded(store: JobStore, study: str, destination: str, now: float) -> int:
    """Give a study's deliveries to a destination up; returns how many."""
    return asked(store, Verb.DISCARD, Selection(destination, study), now).changed


def released(store: JobStore, study: str, destination: str, now: float) -> int:
    """Let a study's held deliveries to a destination go; returns how many."""
    return asked(store, Verb.RELEASE, Selection(destination, study), now).changed

"""A job table with something in it: what intake and the forward workers would have written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, AssociationEnd
from relaypacs.model import (
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

STUDY, ACCESSION, PATIENT = "1.2.826.0.1.77", "ACC-0077", "PAT-77"
GENERATION = "0123456789abcdef" * 2


def arrival(number: int, destinations: tuple[str, ...] = ("pacs",), *, now: float, study: str = STUDY) -> Arrival:
    """The `number`th object of a study, received at `now`; routed nowhere without `destinations`."""
    uid = f"{study}.{number}"
    meta = ObjectMeta("assoc-1", "CT_1", "RELAYPACS", "10.0.0.5:4242", now, "1.2.840.10008.5.1.4.1.1.2", uid, "1.2")
    record = ObjectRecord(
        Committed(GENERATION, number, number * 4096, (number + 1) * 4096), meta, 512, 1000, 900, 600, 1
    )
    return Arrival(
        record=record,
        keys=RoutingKeys(study, f"{study}.0", uid, meta.sop_class_uid, ACCESSION, PATIENT, "20240501", "CT"),
        digest=hashlib.sha256(uid.encode()).hexdigest(),
        route=Route(Routed.ROUTED, destinations, 0, "ct") if destinations else Route(Routed.UNROUTED),
        conflict="forward-both",
        resend="requeue",
    )


def filled(file: Path, *, now: float) -> JobStore:
    """Four objects: delivered, deferred, failed at `pacs`, the fourth to no destination."""
    store = JobStore.open(f"sqlite:///{file}")
    store.migrate()
    arrivals = [arrival(number, ("pacs",) if number < 4 else (), now=now - 300) for number in range(1, 5)]
    end = AssociationEnd("assoc-1", "CT_1", "RELAYPACS", "10.0.0.5:4242", now - 300, now - 290, "released", 4, 4000, "")
    store.take_in("node-1", arrivals, [end], [], now - 299)
    settle(
        store,
        [
            Delivered(),
            Deferred("pacs refuses the connection: start it", Scope.INSTANCE),
            Failed("pacs says 0122", 0x122),
        ],
        now=now,
    )
    return store


def settle(store: JobStore, outcomes: list[Outcome], *, now: float) -> None:
    """Claim as many deliveries to `pacs` as there are outcomes, and settle them so, in order."""
    claims = store.claim("pacs", node="node-1", limit=len(outcomes), lease_seconds=60, now=now - 200)
    store.settle(
        [
            Settlement(claim, outcome, now - 200, now - 199, now + 400 if isinstance(outcome, Deferred) else None)
            for claim, outcome in zip(claims, outcomes, strict=True)
        ],
        now - 199,
    )

"""Rows that are over long enough go, nothing else does, and the ledger stays exact: in total and in every part."""

from __future__ import annotations

from typing import Any

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival
from relaypacs.model import Deferred, Routed, Scope
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, REFUSED, arrival, discarded, end, settled

PARTS: tuple[dict[str, str], ...] = (
    {},
    {"association": "assoc-1"},
    {"association": "assoc-2"},
    {"study": "a"},
    {"study": "b"},
)


def early(uid: str, **values: Any) -> Arrival:
    """Received before everything else happens."""
    return arrival(uid, received_at=1.0, **values)


def forget_all(store: JobStore, settled_before: float, limit: int = 3) -> int:
    total = 0
    while some := store.forget(settled_before=settled_before, limit=limit):
        total += some
    return total


def test_what_is_over_goes_and_is_still_counted(store: JobStore, sql: Sql) -> None:
    both = ("pacs", "cloud")
    store.take_in(NODE, [early(f"a.{n}", study="a", to=both) for n in range(8)], [end(objects=8)], [], 10.0)
    again = [early(f"a.{n}", study="a", to=both, association="assoc-2") for n in range(2)]
    store.take_in(NODE, [*again, early("b.1", study="b", association="assoc-2")], [end("assoc-2", objects=4)], [], 11.0)
    for destination in both:
        claims = store.claim(destination, node=NODE, limit=99, lease_seconds=60, now=20.0)
        store.settle(settled(claims), 20.0)
    # Delivered, and then once more for the second association.
    store.take_in(NODE, [early("a.0", study="a", to=both, association="assoc-2", at_end=9)], [], [], 21.0)
    discarded(store, "a", "cloud", 22.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=23.0)), 23.0)
    before = [store.ledger(**part) for part in PARTS]
    assert forget_all(store, 1000.0) == 0, "their bytes are still there"
    store.forget_segment(NODE, "g1")
    assert forget_all(store, 15.0) == 0, "not over for long enough"
    assert forget_all(store, 22.5) == 8, "one was settled later"
    assert forget_all(store, 1000.0) == 1
    assert [store.ledger(**part) for part in PARTS] == before
    assert sql("SELECT count(*) FROM instance") == sql("SELECT count(*) FROM attempt") == [(0,)]
    # Received again, it is new.
    assert store.take_in(NODE, [early("a.0", study="a")], [], [], 30.0).instances == 1
    assert store.ledger(study="a").imbalance == 0


def test_nothing_that_is_owed_goes_however_old(store: JobStore) -> None:
    names = ("queued", "active", "deferred", "failed", "delivered", "held")
    store.take_in(NODE, [early(name, study=name) for name in names if name != "held"], [], [], 1.0)
    store.take_in(NODE, [early("none", study="none", to=())], [], [], 1.0)
    store.take_in(NODE, [early("dropped", study="dropped", verdict=Routed.DROPPED)], [], [], 1.0)
    store.take_in(NODE, [early("queued", content="x", study="held", conflict="hold-newer")], [], [], 1.0)
    claims = {
        one.study_instance_uid: one for one in store.claim("pacs", node=NODE, limit=9, lease_seconds=1e9, now=2.0)
    }
    store.give_back([claims["queued"]])
    store.settle(settled([claims["failed"]], REFUSED) + settled([claims["delivered"]]), 3.0)
    store.settle(settled([claims["deferred"]], Deferred("x", Scope.SITE), retry_at=1e9), 3.0)
    store.forget_segment(NODE, "g1")
    before = store.ledger()
    assert forget_all(store, 1e9) == 2
    left = {name for name in (*names, "none", "dropped") if store.trace(name)}
    assert left == {"queued", "active", "deferred", "failed", "held", "none"}
    assert store.ledger() == before
    assert before.imbalance == 0


def test_an_imbalance_is_still_seen(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [early("1.1"), early("1.2")], [], [], 1.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)), 2.0)
    store.forget_segment(NODE, "g1")
    assert forget_all(store, 100.0) == 2
    sql("UPDATE forgotten SET delivered = delivered - 1")
    assert store.ledger().imbalance == 1

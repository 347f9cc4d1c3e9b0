"""Rows that are over long enough go, nothing else does, and the ledger stays exact: in total and in every part."""

from __future__ import annotations

from typing import Any

from relaypacs.jobs.audit_rows import Wanted
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


def carry_all(store: JobStore, ended_before: float, limit: int = 2) -> int:
    """Looked at from the beginning to the end: what can't be carried is in nobody's way."""
    return sum(store.associations.carry_forward(ended_before=ended_before, limit=limit) for _ in range(10))


def test_associations_of_which_nothing_is_left_are_counted_under_one(store: JobStore, sql: Sql) -> None:
    for number in range(5):
        name = f"a{number}"
        objects = [early(f"{name}.{n}", study=name, association=name, to=("pacs", "cloud")) for n in range(3)]
        store.take_in(NODE, [*objects, objects[0]], [end(name, objects=4)], [], 1.0)
    store.take_in(NODE, [], [end("echo", objects=0)], [], 1.0)
    store.take_in(NODE, [early("open.1", study="open", association="open", to=("pacs",))], [], [], 1.0)
    store.take_in(NODE, [early("late.1", study="late", association="late")], [end("late", objects=1)], [], 1.0)
    for destination in ("pacs", "cloud"):
        store.settle(settled(store.claim(destination, node=NODE, limit=99, lease_seconds=60, now=2.0)), 3.0)
    store.audit.gather(1e4, quiet_seconds=0.0)
    store.forget_segment(NODE, "g1")
    assert carry_all(store, 1e5) == 1, "only of one nothing is left: it brought nothing"
    before = store.ledger()
    assert store.forget(settled_before=100.0, limit=99) == 17
    assert carry_all(store, 200.0) == 0, "they had not ended"
    # Sent again, as if a person had asked for it: the association that brought it is known as long as it takes.
    store.take_in(NODE, [early("a4.0", study="a4", association="again")], [], [], 300.0)
    sql("UPDATE tally SET audited = audited - 1 WHERE association_id = 'a3'")
    sql("UPDATE tally SET duplicates = duplicates - 1 WHERE association_id = 'a2'")
    assert carry_all(store, 1e5) == 4, "not what is open, not told of, or out of balance"
    left = [name for (name,) in sql("SELECT association_id FROM association ORDER BY 1")]
    assert left == ["a2", "a3", "again", "carried forward", "open"]
    assert store.ledger().imbalance == 1
    assert (store.ledger(association="a0").received, store.ledger(association="a2").received) == (0, 4)
    sql("UPDATE tally SET audited = received")
    sql("UPDATE tally SET duplicates = duplicates + 1 WHERE association_id = 'a2'")
    assert carry_all(store, 1e5) == 2
    assert carry_all(store, 1e9) == 1, "one that never ended is given a year"
    now = store.ledger()
    assert (now.received, now.instances, now.routed, now.pending) == (
        before.received + 1,
        before.instances + 1,
        before.routed + 1,
        1,
    )
    assert (now.duplicates, now.delivered, now.imbalance) == (before.duplicates, before.delivered, 0)
    assert sql("SELECT count(*) FROM tally") == sql("SELECT count(*) + 1 FROM forgotten")


def test_what_is_delivered_after_all_rows_went_is_told_too(store: JobStore) -> None:
    """Ids of attempts that are gone are not given again: the audit trail has looked through them."""
    store.audit.node = NODE
    for number in range(2):
        uids = [early(f"{number}.{n}", study=str(number)) for n in range(3 - number)]
        store.take_in(NODE, uids, [], [], 1.0)
        store.settle(settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)), 3.0)
        for _ in range(3):
            store.audit.gather(1e4, quiet_seconds=0.0)
        store.forget_segment(NODE, "g1")
        assert forget_all(store, 100.0) == 3 - number
    told = store.audit.find(Wanted(kinds=frozenset({"delivered"})), limit=9)
    assert [(row.entry.study, row.entry.body["instances"]) for row in reversed(told)] == [("0", 3), ("1", 2)]


def test_what_the_audit_trail_has_not_told_yet_stays_whatever_its_time(store: JobStore) -> None:
    store.take_in(NODE, [early("a.1"), early("a.2")], [end(objects=2)], [], 10.0)
    claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=20.0)
    store.settle(settled(claims[:1]), 30.0)
    store.forget_segment(NODE, "g1")
    for _ in range(3):
        store.audit.gather(40.0)
    # It waited for the table: its time is from before the trail looked.
    store.settle(settled(claims[1:]), 30.0)
    assert forget_all(store, 35.0) == 1
    for _ in range(3):
        store.audit.gather(41.0)
    assert forget_all(store, 35.0) == 1
    told = [row.entry.body["instances"] for row in store.audit.find(Wanted(kinds=frozenset({"delivered"})), limit=9)]
    assert told == [1, 1]

"""Both equations and the third witness: balanced whatever happens, out of balance once a side is touched."""

from __future__ import annotations

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.model import Deferred, Routed, Scope, Settlement
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, discarded, end, settled


@pytest.fixture
def busy(store: JobStore) -> JobStore:
    """Two associations, two studies, every state, a duplicate, a conflict, a dropped and an unrouted object."""
    first = [arrival(f"a.{number}", study="a", association="one", to=("pacs", "cloud")) for number in range(4)]
    second = [
        arrival("a.0", study="a", association="two", to=("pacs", "cloud")),
        arrival("b.0", study="b", association="two"),
        arrival("b.0", content="other", study="b", association="two", conflict="hold-newer"),
        arrival("b.1", study="b", association="two", verdict=Routed.DROPPED),
        arrival("b.2", study="b", association="two", verdict=Routed.UNROUTED),
    ]
    store.take_in(NODE, first, [end("one", objects=4)], [], 1.0)
    store.take_in(NODE, second, [end("two", objects=5)], [], 2.0)
    batch = store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=3.0)
    store.settle(
        [
            *settled(batch[:1], SENT),
            *settled(batch[1:2], REFUSED),
            Settlement(batch[2], Deferred("later", Scope.SITE), 1.0, 2.0, 900.0),
        ],
        4.0,
    )
    store.take_in(NODE, [arrival("a.0", study="a", association="two")], [end("two", objects=6)], [], 5.0)
    discarded(store, "a", "cloud", 6.0)
    return store


def test_it_counts_everything_once(busy: JobStore) -> None:
    total = busy.ledger()
    assert (total.received, total.instances, total.duplicates) == (10, 8, 2)
    assert (total.dropped, total.unrouted, total.routed) == (1, 1, 11)
    assert (total.delivered, total.pending, total.failed, total.held, total.discarded) == (1, 4, 1, 1, 4)
    assert total.imbalance == 0


def test_its_parts_add_up(busy: JobStore) -> None:
    total = busy.ledger()
    for parts in (
        [busy.ledger(association=one) for one in ("one", "two")],
        [busy.ledger(study=one) for one in ("a", "b")],
        [busy.ledger(association=one, study=two) for one in ("one", "two") for two in ("a", "b")],
    ):
        for entry in type(total).__dataclass_fields__:
            assert sum(getattr(part, entry) for part in parts) == getattr(total, entry), entry


def test_what_is_not_there_is_balanced(busy: JobStore) -> None:
    nothing = busy.ledger(association="nobody")
    assert (nothing.received, nothing.routed, nothing.imbalance) == (0, 0, 0)


@pytest.mark.parametrize(
    ("breakage", "by"),
    [
        ("UPDATE tally SET received = received + 1 WHERE association_id = 'one'", 2),  # and the witness disagrees
        ("UPDATE tally SET duplicates = duplicates - 1 WHERE association_id = 'two' AND study_instance_uid = 'a'", 1),
        ("UPDATE tally SET routed = routed + 2 WHERE association_id = 'one'", 2),
        ("DELETE FROM delivery WHERE state = 'queued'", None),
        ("DELETE FROM delivery WHERE state = 'held'", 1),
        ("DELETE FROM attempt; DELETE FROM delivery WHERE state = 'failed'", 1),
        ("DELETE FROM attempt; DELETE FROM delivery WHERE state = 'deferred'", 1),
        ("DELETE FROM attempt; DELETE FROM delivery WHERE state = 'active'", 1),
        ("DELETE FROM attempt; DELETE FROM delivery WHERE state = 'delivered'", 1),
        ("DELETE FROM delivery WHERE state = 'discarded'", 4),
        ("UPDATE association SET objects = objects + 3 WHERE association_id = 'one'", 3),
        ("UPDATE association SET objects = objects - 1 WHERE association_id = 'two'", 1),
        (
            "INSERT INTO instance (association_id, sop_instance_uid, digest, received_at, verdict, node)"
            " VALUES ('one', '9.9', 'd', 1.0, 'dropped', 'node-a')",
            1,
        ),
        (
            "INSERT INTO delivery (instance_id, association_id, study_instance_uid, destination, home, state,"
            " study_at, queued_at, settled_at) SELECT id, 'one', 'b', 'pacs', 'node-a', 'delivered', 1.0, 1.0, 1.0"
            " FROM instance WHERE sop_instance_uid = 'b.2'",
            1,
        ),
    ],
)
def test_any_side_touched_is_seen(busy: JobStore, sql: Sql, breakage: str, by: int | None) -> None:
    for statement in breakage.split("; "):
        sql(statement)
    imbalance = busy.ledger().imbalance
    assert imbalance == by if by is not None else imbalance > 0
    assert any(busy.ledger(association=one).imbalance > 0 for one in ("one", "two"))


@pytest.mark.parametrize("study", ["a", "b"])
def test_a_studys_ledger_sees_its_own_breakage(busy: JobStore, sql: Sql, study: str) -> None:
    sql(
        "UPDATE tally SET received = received + 1 WHERE study_instance_uid = :study AND association_id = 'two'",
        study=study,
    )
    assert {one: busy.ledger(study=one).imbalance for one in ("a", "b")} == {"a": 0, "b": 0} | {study: 1}


def test_an_association_that_tells_of_more_than_arrived_is_out_of_balance(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [end(objects=2)], [], 1.0)
    assert store.ledger().imbalance == store.ledger(association="assoc-1").imbalance == 1
    store.take_in(NODE, [arrival("1.2.3.2")], [], [], 2.0)
    assert store.ledger().imbalance == store.ledger(association="assoc-1").imbalance == 0
    store.take_in(NODE, [], [end("lost", objects=7)], [], 3.0)
    assert store.ledger().imbalance == store.ledger(association="lost").imbalance == 7

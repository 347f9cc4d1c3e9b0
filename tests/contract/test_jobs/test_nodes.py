"""Several nodes on one job table: each under its own name, each with its own; and one that is gone for good."""

from __future__ import annotations

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Joined
from relaypacs.model import Checkpoint, Deferred, Scope, State
from tests.unit.jobs.made import NODE, arrival, settled


def test_a_name_is_one_state_folders(store: JobStore) -> None:
    assert store.join("one", "folder-1", 1.0) == Joined(leases_ended=0, others=())
    assert store.join("two", "folder-2", 2.0) == Joined(leases_ended=0, others=("one",))
    assert store.join("one", "folder-1", 3.0) == Joined(leases_ended=0, others=("two",))
    with pytest.raises(JobsError, match="another \\[node\\] name"):
        store.join("one", "folder-3", 4.0)


def test_a_refused_node_ends_nobodys_lease(store: JobStore) -> None:
    store.join(NODE, "folder-1", 1.0)
    store.take_in(NODE, [arrival()], [], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=1, lease_seconds=60, now=2.0)
    with pytest.raises(JobsError):
        store.join(NODE, "folder-2", 3.0)
    assert store.settle(settled(claims), 4.0) == 1


def test_what_a_drained_node_owed_is_a_dead_letter_and_comes_back_with_its_bytes(store: JobStore) -> None:
    store.join(NODE, "folder-1", 1.0)
    store.join("node-b", "folder-2", 1.0)
    names = ("sent", "waits", "active", "later")
    store.take_in(NODE, [arrival(f"1.{name}", study=name) for name in names], [], [Checkpoint("g1", 5, 5, 5)], 1.0)
    store.take_in("node-b", [arrival("1.other", study="other")], [], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=1e6, now=2.0)
    sent, waits, active, later = sorted(claims, key=lambda one: names.index(one.study_instance_uid))
    store.settle(settled([sent]), 3.0)
    store.settle(settled([later], Deferred("x", Scope.SITE), retry_at=1e6), 3.0)
    store.give_back([waits])
    store.will_stage([(later.instance_id, "key")], node=NODE)
    store.staged([(later.instance_id, "key")], 3.0)
    assert (store.owes(NODE), store.owes("node-b"), store.owes("nobody")) == (3, 1, None)
    done = 0
    while some := store.drain(NODE, 4.0, limit=3):
        done += some
    assert done == 4
    assert store.owes(NODE) is None
    assert store.checkpoints(NODE) == {}
    for name in names:
        (row,) = store.trace(name)
        (delivery,) = row.deliveries
        assert not row.in_spool
        assert not row.staged
        assert delivery.state is (State.DELIVERED if name == "sent" else State.FAILED)
        assert name == "sent" or "node-a, which was drained" in delivery.reason
    assert store.settle(settled([active]), 5.0) == 0, "a worker of it that lives after all changes nothing"
    book = store.ledger()
    assert (book.delivered, book.failed, book.pending, book.imbalance) == (1, 3, 1, 0)
    # The same object again, at another node.
    store.take_in("node-b", [arrival("1.waits", study="waits")], [], [], 6.0)
    (again, _) = sorted(
        store.claim("pacs", node="node-b", limit=9, lease_seconds=9, now=7.0),
        key=lambda one: one.study_instance_uid != "waits",
    )
    assert again.sop_instance_uid == "1.waits"
    assert store.ledger().imbalance == 0
    assert store.join(NODE, "folder-9", 8.0).others == ("node-b",)

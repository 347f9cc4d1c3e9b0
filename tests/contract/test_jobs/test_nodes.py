"""Several nodes on one job table: each under its own name, each with its own; and one that is gone for good."""

from __future__ import annotations

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Joined
from relaypacs.model import Checkpoint, Deferred, Scope, State
from tests.contract.test_jobs.conftest import Sql
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


def test_nothing_of_a_drained_node_is_left_that_nobody_would_ever_finish(store: JobStore, sql: Sql) -> None:
    """Files that it was putting or deleting, what it knew of destinations, what it was to ask them."""
    store.join(NODE, "folder-1", 1.0)
    store.take_in(NODE, [arrival("1.put"), arrival("1.purged", study="done")], [], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)
    (done,) = [one for one in claims if one.study_instance_uid == "done"]
    store.settle(settled([done]), 3.0)
    store.will_stage([(done.instance_id, "key")], node=NODE)
    store.staged([(done.instance_id, "key")], 3.0)
    store.segment_needed(NODE, "g1", keep=False)
    assert store.purgeable(NODE, settled_before=9.0, limit=9) == [(done.instance_id, "key")]
    store.will_stage([(one.instance_id, "put") for one in claims if one is not done], node=NODE)
    store.destinations.fallbacks.began("pacs", NODE, 4.0)
    store.destinations.fallbacks.began("pacs", "node-b", 4.0)
    store.destinations.verifications.note([("pacs", "done")], NODE, 3.0, due_at=30.0)
    while store.drain(NODE, 5.0):
        pass
    assert sql("SELECT count(*) FROM instance WHERE purging_key IS NOT NULL OR generation IS NOT NULL") == [(0,)]
    assert [one.node for one in store.destinations.fallbacks.outages()] == ["node-b"]
    (asked,) = store.destinations.verifications.of_study("done")
    assert (asked.due_at, "was drained" in asked.reason) == (None, True)
    assert store.forget(settled_before=10.0, limit=9) == 0
    assert store.forget(settled_before=1000.0, limit=9) == 1, "what is over goes in its time"
    assert store.ledger().imbalance == 0

"""Who gets which delivery, in which order, and for how long."""

from __future__ import annotations

import pytest

from relaypacs.jobs.delivery import WAKE_AT_ONCE
from relaypacs.jobs.store import JobStore
from relaypacs.model import Claim, Deferred, Scope, State
from tests.unit.jobs.made import CT, EXPLICIT_LE, NODE, SITE_DOWN, arrival, settled

LATER = Deferred("timeout", Scope.INSTANCE)


def claim(store: JobStore, now: float = 1000.0, limit: int = 100, destination: str = "pacs") -> list[Claim]:
    return store.claim(destination, node=NODE, limit=limit, lease_seconds=60.0, now=now)


def uids(claims: list[Claim]) -> list[str]:
    return [one.sop_instance_uid for one in claims]


def test_a_claim_says_all_a_worker_needs(store: JobStore) -> None:
    store.take_in(NODE, [arrival(priority=3)], [], [], 101.0)
    (one,) = claim(store)
    assert (one.destination, one.token, one.attempts, one.first_queued_at, one.priority) == ("pacs", 1, 0, 101.0, 3)
    assert (one.sop_class_uid, one.sop_instance_uid, one.study_instance_uid) == (CT, "1.2.3.1", "1.2.3")
    assert (one.transfer_syntax_uid, one.association_id) == (EXPLICIT_LE, "assoc-1")
    at = one.location
    assert (at.node, at.generation, at.staged_key) == (NODE, "g1", None)
    assert (at.file_offset, at.file_length, at.dataset_offset, at.dataset_length) == (5120, 33_000, 5500, 32_620)
    assert at.dataset_crc32c == 0xDEADBEEF
    store.will_stage([(one.instance_id, "2024/key.dcm")], node=NODE)
    store.staged([(one.instance_id, "2024/key.dcm")], 102.0)
    (again,) = claim(store, now=2000.0)
    assert again.location.staged_key == "2024/key.dcm"


def test_by_priority_then_study_then_age(store: JobStore) -> None:
    store.take_in(NODE, [arrival("a.1", study="a")], [], [], 1.0)
    store.take_in(NODE, [arrival("b.1", study="b"), arrival("b.2", study="b")], [], [], 2.0)
    store.take_in(NODE, [arrival("a.2", study="a"), arrival("c.1", study="c", priority=5)], [], [], 3.0)
    store.take_in(NODE, [arrival("b.3", study="b"), arrival("a.3", study="a")], [], [], 4.0)
    assert uids(claim(store, limit=3)) == ["c.1", "a.1", "a.2"]
    assert uids(claim(store, limit=2)) == ["a.3", "b.1"]
    assert uids(claim(store)) == ["b.2", "b.3"]


def test_studies_of_one_batch_are_not_mixed(store: JobStore) -> None:
    mixed = [arrival(f"{study}.{number}", study=study) for number in range(3) for study in ("x", "y")]
    store.take_in(NODE, mixed, [], [], 1.0)
    assert uids(claim(store)) == ["x.0", "x.1", "x.2", "y.0", "y.1", "y.2"]


def test_a_study_that_was_done_is_new_when_it_grows(store: JobStore) -> None:
    store.take_in(NODE, [arrival("a.1", study="a")], [], [], 1.0)
    store.settle(settled(claim(store, now=2.0)), 2.0)
    store.take_in(NODE, [arrival("b.1", study="b")], [], [], 3.0)
    store.take_in(NODE, [arrival("a.2", study="a")], [], [], 4.0)
    assert uids(claim(store)) == ["b.1", "a.2"]


def test_instances_without_a_study_queue_by_age(store: JobStore) -> None:
    store.take_in(NODE, [arrival("n.1", study="")], [], [], 1.0)
    store.take_in(NODE, [arrival("a.1", study="a")], [], [], 2.0)
    store.take_in(NODE, [arrival("n.2", study="")], [], [], 3.0)
    assert uids(claim(store)) == ["n.1", "a.1", "n.2"]


def test_only_the_destination_and_the_node_that_has_the_bytes(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1", to=("pacs",)), arrival("1.2", to=("cloud",))], [], [], 1.0)
    store.take_in("node-b", [arrival("1.3", to=("pacs",))], [], [], 1.0)
    assert uids(claim(store)) == ["1.1"]
    assert uids(claim(store, destination="cloud")) == ["1.2"]
    assert uids(store.claim("pacs", node="node-b", limit=9, lease_seconds=1, now=5.0)) == ["1.3"]
    assert claim(store, destination="nowhere") == []


def test_a_claimed_delivery_is_nobody_elses_until_its_lease_ends(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    (first,) = claim(store, now=1000.0)
    assert claim(store, now=1059.9) == []
    assert store.next_due("pacs", 1059.9) == 1060.0
    (second,) = claim(store, now=1060.0)
    assert (second.delivery_id, second.token, second.attempts) == (first.delivery_id, first.token + 1, 0)
    assert store.settle(settled([first]), 1061.0) == 0
    assert store.trace("1.2.3")[0].deliveries[0].state is State.ACTIVE
    assert store.settle(settled([second]), 1062.0) == 1
    assert store.settle(settled([second]), 1063.0) == 0


def test_a_lease_that_ended_can_still_be_settled_while_nobody_has_it(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    both = claim(store, now=1000.0)
    assert uids(claim(store, now=2000.0, limit=1)) == ["1.1"]  # wakes both, takes one
    assert store.settle(settled(both), 2001.0) == 1
    assert [row.deliveries[0].state for row in store.trace("1.2.3")] == [State.ACTIVE, State.DELIVERED]


def test_a_renewed_lease_lasts_longer(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    first, second = claim(store, now=1000.0)
    store.renew([first], lease_seconds=60.0, now=1050.0)
    (taken,) = claim(store, now=1100.0)
    assert taken.delivery_id == second.delivery_id
    store.renew([second], lease_seconds=600.0, now=1101.0)  # no longer its own
    assert [one.token for one in claim(store, now=1160.0)] == [2, 3]


def test_a_renewal_after_the_lease_ended_takes_it_back(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    _, second = claim(store, now=1000.0)
    claim(store, now=2000.0, limit=1)
    store.renew([second], lease_seconds=60.0, now=2001.0)
    assert claim(store, now=2002.0) == []
    assert store.settle(settled([second]), 2003.0) == 1


def test_what_is_given_back_waits_as_before(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    first, second = claim(store, now=1000.0)
    store.settle(settled([second], LATER, retry_at=1050.0), 1001.0)
    (second,) = claim(store, now=1050.0)
    store.give_back([first, second])
    store.give_back([first, second])
    rows = [row.deliveries[0] for row in store.trace("1.2.3")]
    assert [(one.state, one.attempts) for one in rows] == [(State.QUEUED, 0), (State.DEFERRED, 1)]
    assert store.next_due("pacs", 1051.0) == 1051.0
    again = claim(store, now=1051.0)
    assert [one.token for one in again] == [first.token + 1, second.token + 1]
    assert store.settle(settled([first, second]), 1102.0) == 0


def test_a_deferred_delivery_waits_for_its_time(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2", priority=9)], [], [], 1.0)
    urgent, _ = claim(store, now=1000.0)
    store.settle(settled([urgent], SITE_DOWN, retry_at=1500.0), 1001.0)
    assert store.next_due("pacs", 1002.0) == 1060.0
    assert uids(claim(store, now=1499.0)) == ["1.1"]
    assert store.next_due("pacs", 1499.5) == 1500.0
    (again,) = claim(store, now=1500.0)
    assert (again.sop_instance_uid, again.attempts, again.first_queued_at) == ("1.2", 1, 1.0)


def test_when_something_is_next_due(store: JobStore) -> None:
    assert store.next_due("pacs", 5.0) is None
    store.take_in(NODE, [arrival()], [], [], 1.0)
    assert store.next_due("pacs", 5.0) == store.next_due("pacs", 5.0, node=NODE) == 5.0
    assert store.next_due("pacs", 5.0, node="node-b") is None
    assert store.next_due("cloud", 5.0) is None
    store.settle(settled(claim(store)), 6.0)
    assert store.next_due("pacs", 5.0) is None


@pytest.mark.parametrize("count", [WAKE_AT_ONCE + 50])
def test_a_long_outages_backlog_comes_back_whole(store: JobStore, count: int) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(count)], [], [], 1.0)
    batch = claim(store, now=10.0, limit=5000)
    assert store.settle(settled(batch, SITE_DOWN, retry_at=100.0), 11.0) == count
    back: set[str] = set()
    while more := claim(store, now=100.0, limit=300):
        back.update(uids(more))
    assert len(back) == count


def test_a_new_life_of_the_node_ends_the_leases_of_the_old_one(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2"), arrival("1.3")], [], [], 1.0)
    store.take_in("node-b", [arrival("1.4")], [], [], 1.0)
    first, second, third = claim(store, now=1000.0)
    store.settle(settled([third]), 1001.0)
    store.settle(settled([second], LATER, retry_at=1002.0), 1001.0)
    (second,) = claim(store, now=1002.0)
    (other,) = store.claim("pacs", node="node-b", limit=9, lease_seconds=60.0, now=1000.0)
    assert store.join(NODE, "folder", 1010.0).leases_ended == 2
    # A person may hold them, and a fallback may get them: nobody has them.
    assert [row.deliveries[0].state for row in store.trace("1.2.3")[:2]] == [State.QUEUED, State.DEFERRED]
    assert uids(claim(store, now=1002.0)) == ["1.1", "1.2"]
    assert store.settle(settled([first, second]), 1003.0) == 0  # the dead life's tokens are stale
    assert store.settle(settled([other]), 1003.0) == 1  # another node's leases are its own
    assert store.join("node-c", "another", 1010.0).leases_ended == 0

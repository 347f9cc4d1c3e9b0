"""Staging that all nodes share: what is in it is no node's own, whoever received it and whatever became of that one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import ANYWHERE
from relaypacs.model import Claim
from tests.unit.jobs.made import NODE, SENT, arrival, resent, settled

OTHER = "node-b"


@pytest.fixture
def shared(url: str, store: JobStore) -> Iterator[JobStore]:
    """The migrated table of `store`, opened by nodes that share their staging."""
    opened = JobStore.open(url, shared_staging=True)
    yield opened
    opened.close()


def claim(store: JobStore, node: str, limit: int = 100, now: float = 400.0) -> list[Claim]:
    return store.claim("pacs", node=node, limit=limit, lease_seconds=60, now=now)


def stage(store: JobStore, node: str = NODE, now: float = 300.0) -> list[int]:
    found = store.to_stage(node, received_before=1e9, keep=True, limit=100)
    store.staged([(one.instance_id, f"key-{one.sop_instance_uid}") for one in found], now, copied=found)
    return [one.instance_id for one in found]


def uids(claims: list[Claim]) -> list[str]:
    return [one.sop_instance_uid for one in claims]


def test_any_node_claims_what_is_staged_and_nobody_what_another_holds(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    shared.take_in(NODE, [arrival("1.2", received_at=500.0)], [], [], 1.0)
    assert claim(shared, OTHER) == []
    assert shared.next_due("pacs", 400.0, node=OTHER) is None
    found = shared.to_stage(NODE, received_before=400.0, keep=True, limit=100)
    shared.staged([(found[0].instance_id, "key-1")], 300.0, copied=found)
    assert shared.next_due("pacs", 400.0, node=OTHER) == 400.0
    claims = claim(shared, OTHER)
    assert uids(claims) == ["1.1"]
    assert claims[0].location.staged_key == "key-1"
    assert claims[0].location.generation is None
    assert uids(claim(shared, NODE)) == ["1.2"]
    assert shared.settle(settled(claims, SENT), 410.0) == 1


def test_without_shared_staging_only_the_node_that_has_the_bytes_claims(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    found = store.to_stage(NODE, received_before=1e9, keep=True, limit=100)
    keys = [(one.instance_id, "key") for one in found]
    store.will_stage(keys, node=NODE)
    store.staged(keys, 300.0)
    assert claim(store, OTHER) == []
    assert uids(claim(store, NODE)) == ["1.1"]


def test_own_and_shared_deliveries_go_in_one_order(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1", study="1", priority=1)], [], [], 1.0)
    shared.take_in(NODE, [arrival("1.2", study="2", priority=5)], [], [], 2.0)
    stage(shared)
    shared.take_in(NODE, [arrival("1.3", study="3", priority=3), arrival("1.4", study="4", priority=0)], [], [], 3.0)
    assert [uids(claim(shared, NODE, limit=1)) for _ in range(4)] == [["1.2"], ["1.3"], ["1.1"], ["1.4"]]


def test_a_claim_outlives_the_staging_of_its_instance(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    claims = claim(shared, NODE)
    stage(shared)
    assert claim(shared, OTHER) == []
    assert shared.settle(settled(claims, SENT), 410.0) == 1
    assert shared.ledger().imbalance == 0


def test_a_node_that_starts_again_ends_its_own_leases_on_what_is_shared_and_nobody_elses(shared: JobStore) -> None:
    for node in (NODE, OTHER):
        shared.join(node, f"folder of {node}", 1.0)
    shared.take_in(NODE, [arrival("1.1"), arrival("1.2", study="2")], [], [], 1.0)
    stage(shared)
    mine, others = claim(shared, NODE, limit=1), claim(shared, OTHER, limit=1)
    assert shared.join(OTHER, f"folder of {OTHER}", 401.0).leases_ended == 1
    assert uids(claim(shared, NODE, now=402.0)) == uids(others)
    assert shared.settle(settled(others, SENT), 403.0) == 0
    assert shared.settle(settled(mine, SENT), 403.0) == 1


def test_what_a_dead_node_had_claimed_comes_free_by_its_lease(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    stage(shared)
    assert uids(claim(shared, NODE, now=400.0)) == ["1.1"]
    assert claim(shared, OTHER, now=459.0) == []
    assert uids(claim(shared, OTHER, now=461.0)) == ["1.1"]


def test_what_is_queued_anew_is_anybodys(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    stage(shared)
    shared.settle(settled(claim(shared, NODE), SENT), 410.0)
    assert resent(shared, "1.2.3", "pacs", 420.0).changed == 1
    claims = claim(shared, OTHER)
    assert uids(claims) == ["1.1"]
    # Received again, anywhere: the bytes are in staging already.
    shared.settle(settled(claims, SENT), 430.0)
    shared.take_in(OTHER, [arrival("1.5", association="assoc-2")], [], [], 440.0)
    shared.take_in(OTHER, [arrival("1.1", association="assoc-2", generation="g9")], [], [], 440.0)
    assert [one.sop_instance_uid for one in shared.to_stage(OTHER, received_before=1e9, keep=True, limit=9)] == ["1.5"]


def test_the_spool_does_not_need_what_is_staged_and_draining_a_node_loses_only_the_rest(shared: JobStore) -> None:
    shared.join(NODE, "identity", 1.0)
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    stage(shared)
    assert not shared.segment_needed(NODE, "g1", True)
    shared.take_in(NODE, [arrival("1.2", generation="g2")], [], [], 2.0)
    assert shared.segment_needed(NODE, "g2", True)
    assert shared.owes(NODE) == 1
    while shared.drain(NODE, 500.0):
        pass
    ledger = shared.ledger()
    assert (ledger.failed, ledger.pending, ledger.imbalance) == (1, 1, 0)
    assert uids(claim(shared, OTHER)) == ["1.1"]


def test_a_staged_object_is_purged_once_by_whichever_node(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    (instance_id,) = stage(shared)
    assert shared.purgeable(ANYWHERE, settled_before=1e9, limit=9) == []
    shared.settle(settled(claim(shared, OTHER), SENT), 410.0)
    assert shared.purgeable(NODE, settled_before=1e9, limit=9) == []
    assert shared.purgeable(ANYWHERE, settled_before=1e9, limit=9) == [(instance_id, "key-1.1")]
    shared.purged([(instance_id, "key-1.1")])
    assert shared.purgeable(ANYWHERE, settled_before=1e9, limit=9) == []


def test_what_was_purged_and_received_again_is_not_staged_by_an_older_put(shared: JobStore) -> None:
    """Two stagers copy one instance; the slower one's file is purged before it can say so."""
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    slow = shared.to_stage(NODE, received_before=1e9, keep=True, limit=9)
    (instance_id,) = stage(shared)
    shared.settle(settled(claim(shared, NODE), SENT), 410.0)
    marked = shared.purgeable(ANYWHERE, settled_before=1e9, limit=9)
    shared.take_in(NODE, [arrival("1.1", generation="g2")], [], [], 420.0)
    shared.purged(marked)
    shared.staged([(instance_id, "key-1.1")], 430.0, copied=slow)
    assert [(one.location.generation, one.location.staged_key) for one in claim(shared, NODE)] == [("g2", None)]
    assert shared.segment_needed(NODE, "g2", keep=False) is True


def test_while_a_file_is_deleted_nobody_may_stage_its_instance_or_take_it_for_staged(shared: JobStore) -> None:
    shared.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    stage(shared)
    shared.settle(settled(claim(shared, NODE), SENT), 410.0)
    marked = shared.purgeable(ANYWHERE, settled_before=1e9, limit=9)
    shared.take_in(NODE, [arrival("1.1", generation="g2")], [], [], 420.0)
    assert [node for node, _ in shared.copies.only_in_spool(["1.1"])["1.1"]] == [None]
    shared.purged(marked)
    assert [node for node, _ in shared.copies.only_in_spool(["1.1"])["1.1"]] == [NODE]

"""An object whose only copy is in one node's spool, received by another: who answered for it keeps it and delivers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine

from relaypacs.jobs import intake
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, TakenIn
from relaypacs.model import Checkpoint, State
from tests.contract.test_jobs.conftest import Sql
from tests.peers.ports import wait_until
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, settled

OTHER = "node-b"
UID = "1.2.3.1"


@pytest.fixture(params=["own", "shared"])
def table(request: pytest.FixtureRequest, url: str, store: JobStore) -> Iterator[JobStore]:
    """The migrated table as nodes with staging of their own, or shared staging, have it."""
    opened = JobStore.open(url, shared_staging=request.param == "shared")
    for node in (NODE, OTHER):
        opened.join(node, f"identity of {node}", 1.0)
    yield opened
    opened.close()


def take(store: JobStore, node: str, generation: str, association: str, **chosen: str) -> None:
    one = arrival(UID, generation=generation, association=association, **chosen)  # type: ignore[arg-type]
    store.take_in(node, [one], [], [Checkpoint(generation, 40_960, 1, 1)], 100.0)


def claimed(store: JobStore, node: str, now: float = 200.0) -> list[tuple[str, str | None]]:
    claims = store.claim("pacs", node=node, limit=9, lease_seconds=60, now=now)
    return [(one.location.node, one.location.generation) for one in claims]


def test_the_node_that_received_it_last_has_it(table: JobStore) -> None:
    take(table, NODE, "ga", "a1")
    take(table, OTHER, "gb", "a2")
    assert table.segment_needed(OTHER, "gb", keep=False, end=40_960) is True
    assert [one.generation for one in table.to_stage(OTHER, received_before=1e9, keep=False, limit=9)] == ["gb"]
    assert [node for node, _ in table.copies.only_in_spool([UID])[UID]] == [OTHER], "its desk can stage it"
    assert table.segment_needed(NODE, "ga", keep=True, end=40_960) is False
    while table.drain(NODE, 150.0):
        pass
    assert claimed(table, OTHER) == [(OTHER, "gb")]
    ledger = table.ledger()
    assert (ledger.received, ledger.instances, ledger.duplicates, ledger.failed, ledger.imbalance) == (2, 1, 1, 0, 0)


def test_who_is_sending_it_keeps_it_until_its_lease_ends(table: JobStore) -> None:
    take(table, NODE, "ga", "a1")
    sending = table.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=90.0)
    take(table, OTHER, "gb", "a2")
    assert claimed(table, OTHER, now=140.0) == []
    assert table.settle(settled(sending, SENT), 141.0) == 1
    assert claimed(table, OTHER, now=200.0) == []


def test_a_dead_node_that_was_sending_it_is_not_waited_for_longer_than_its_lease(table: JobStore) -> None:
    take(table, NODE, "ga", "a1")
    table.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=90.0)
    take(table, OTHER, "gb", "a2")
    assert claimed(table, OTHER, now=151.0) == [(OTHER, "gb")]


def test_a_dead_letter_is_no_longer_the_other_nodes(table: JobStore) -> None:
    take(table, NODE, "ga", "a1")
    claims = table.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=90.0)
    table.settle(settled(claims, REFUSED), 91.0)
    take(table, OTHER, "gb", "a2", resend="suppress")
    left = table.nodes.left(NODE)
    assert left is not None
    assert left.failed == 0


def test_what_lost_its_bytes_at_one_node_goes_from_the_node_that_gets_them_again(table: JobStore) -> None:
    """The spool of a node is lost with its disk, and the node lives on."""
    take(table, NODE, "ga", "a1")
    table.forget_segment(NODE, "ga")
    take(table, OTHER, "gb", "a2")
    assert claimed(table, NODE) == []
    assert claimed(table, OTHER) == [(OTHER, "gb")]
    assert table.ledger().imbalance == 0


def test_what_is_staged_stays_where_it_is(url: str, store: JobStore) -> None:
    shared = JobStore.open(url, shared_staging=True)
    take(shared, NODE, "ga", "a1")
    found = shared.to_stage(NODE, received_before=1e9, keep=True, limit=9)
    shared.staged([(found[0].instance_id, "key")], 110.0, copied=found)
    take(shared, OTHER, "gb", "a2")
    assert shared.segment_needed(OTHER, "gb", keep=True, end=40_960) is False
    (claim,) = shared.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=200.0)
    assert claim.location.staged_key == "key"
    shared.close()


def test_a_late_copy_by_the_first_node_changes_nothing(table: JobStore, sql: Sql) -> None:
    take(table, NODE, "ga", "a1")
    found = table.to_stage(NODE, received_before=1e9, keep=True, limit=9)
    take(table, OTHER, "gb", "a2")
    keys = [(found[0].instance_id, "key")]
    assert table.will_stage(keys, node=NODE) == set()
    table.staged(keys, 120.0, copied=found)
    assert sql("SELECT node, generation, staged_key, purging_key FROM instance") == [(OTHER, "gb", None, None)]
    assert sql("SELECT home FROM delivery") == [(OTHER,)]


def at_the_same_moment(url: str, store: JobStore, sql: Sql, first: Arrival, second: Arrival) -> TakenIn:
    """What the later transaction came to, which could not see the row of the first when it looked."""
    if url.startswith("sqlite"):
        pytest.skip("one transaction at a time")
    engine = create_engine(url, connect_args={"prepare_threshold": None})
    found: list[TakenIn] = []
    later = threading.Thread(target=lambda: found.append(store.take_in(OTHER, [second], [], [], 1.0)))
    with engine.begin() as connection:
        intake.take_in(connection, NODE, [first], [], [], now=1.0, identifiers=True, shared=False)
        later.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        wait_until(lambda: sql(waiting) != [(0,)], "the later one waits for the first", 30)
    later.join(30)
    engine.dispose()
    return found[0]


def test_two_nodes_that_receive_a_new_object_at_the_same_moment(url: str, store: JobStore, sql: Sql) -> None:
    done = at_the_same_moment(url, store, sql, arrival(UID, association="a1"), arrival(UID, association="a2"))
    assert (done.instances, done.duplicates) == (0, 1)
    assert claimed(store, OTHER) == [(OTHER, "g1")]


def test_two_nodes_that_receive_other_bytes_under_one_uid_at_the_same_moment(
    url: str, store: JobStore, sql: Sql
) -> None:
    second = arrival(UID, content="other", association="a2", conflict="hold-newer")
    done = at_the_same_moment(url, store, sql, arrival(UID, association="a1"), second)
    assert (done.instances, done.conflicts, done.held) == (1, 1, 1)
    assert [row.conflict for row in store.trace(UID)] == [True, True]
    assert [row.deliveries[0].state for row in store.trace(UID)] == [State.QUEUED, State.HELD]

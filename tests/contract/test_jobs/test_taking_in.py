"""Received objects become instances, deliveries and counts, together with the checkpoint or not at all."""

from __future__ import annotations

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.store import JobStore
from relaypacs.model import Checkpoint, Routed, RoutingKeys, State
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import CT, EXPLICIT_LE, NODE, arrival, end


def claims(store: JobStore, destination: str = "pacs", now: float = 1000.0) -> list[str]:
    return [one.sop_instance_uid for one in store.claim(destination, node=NODE, limit=1000, lease_seconds=60, now=now)]


def test_an_object_becomes_an_instance_and_a_delivery_per_destination(store: JobStore) -> None:
    taken = store.take_in(NODE, [arrival("1.2.3.1", to=("pacs", "cloud"))], [], [Checkpoint("g1", 40960, 1, 7)], 101.0)

    assert (taken.queued, taken.instances, taken.duplicates) == ({"pacs": 1, "cloud": 1}, 1, 0)
    assert store.checkpoints(NODE) == {"g1": Checkpoint("g1", 40960, 1, 7)}
    (row,) = store.trace("1.2.3.1")
    assert (row.study_instance_uid, row.series_instance_uid, row.accession_number, row.patient_id) == (
        "1.2.3",
        "1.2.3.9",
        "ACC-1.2.3",
        "PID-1.2.3",
    )
    assert (row.calling_ae, row.called_ae, row.peer, row.rule) == ("CT1", "RELAYPACS", "10.0.0.7:40123", "all")
    assert (row.sop_class_uid, row.transfer_syntax_uid, row.modality, row.study_date) == (
        CT,
        EXPLICIT_LE,
        "CT",
        "20240229",
    )
    assert (row.received_at, row.in_spool, row.staged, row.verdict) == (100.0, True, False, Routed.ROUTED)
    assert [(one.destination, one.state, one.attempts) for one in row.deliveries] == [
        ("pacs", State.QUEUED, 0),
        ("cloud", State.QUEUED, 0),
    ]


def test_a_destination_named_twice_gets_one_delivery(store: JobStore) -> None:
    store.take_in(NODE, [arrival(to=("pacs", "pacs"))], [], [], 101.0)
    assert claims(store) == ["1.2.3.1"]
    assert store.ledger().imbalance == 0


def test_a_batch_that_fails_leaves_nothing(store: JobStore, sql: Sql) -> None:
    sql("CREATE UNIQUE INDEX in_the_way ON checkpoint (chain)")
    with pytest.raises(JobsError):
        store.take_in(NODE, [arrival()], [end(objects=1)], [Checkpoint("g1", 1, 1, 5), Checkpoint("g2", 1, 1, 5)], 1.0)
    assert store.checkpoints(NODE) == {}
    assert store.trace("1.2.3") == []
    assert store.ledger().received == 0
    store.take_in(NODE, [arrival()], [end(objects=1)], [Checkpoint("g1", 1, 1, 5)], 1.0)
    assert store.ledger().received == 1
    sql("DROP INDEX in_the_way")


def test_a_batch_whose_commit_was_in_doubt_is_not_counted_twice(store: JobStore) -> None:
    first = ([arrival("1.1", at_end=1000), arrival("1.2", at_end=2000)], [end(objects=3)], [Checkpoint("g1", 2000, 2)])
    store.take_in(NODE, *first, 1.0)
    repeated = store.take_in(NODE, *first, 2.0)
    assert (repeated.instances, repeated.duplicates, repeated.queued) == (0, 0, {})
    again = ([*first[0], arrival("1.3", at_end=3000)], [], [Checkpoint("g1", 3000, 3)])
    assert store.take_in(NODE, *again, 3.0).instances == 1
    ledger = store.ledger()
    assert (ledger.received, ledger.duplicates, ledger.imbalance) == (3, 0, 0)
    # The same place in another segment is another object.
    elsewhere = ([arrival("1.1", generation="g2", at_end=1000)], [], [Checkpoint("g2", 1000, 1)])
    assert store.take_in(NODE, *elsewhere, 4.0).duplicates == 1
    store.take_in(NODE, [], [], [Checkpoint("g1", 2000, 2)], 5.0)
    assert store.checkpoints(NODE)["g1"].end == 3000


def test_checkpoints_are_replaced_and_belong_to_a_node(store: JobStore) -> None:
    store.take_in(NODE, [], [], [Checkpoint("g1", 10, 1, 1), Checkpoint("g2", 20, 2, 2)], 1.0)
    store.take_in(NODE, [], [], [Checkpoint("g1", 30, 3, 0xFFFFFFFF)], 2.0)
    store.take_in("node-b", [], [], [Checkpoint("g1", 99, 9, 9)], 2.0)
    assert store.checkpoints(NODE) == {"g1": Checkpoint("g1", 30, 3, 0xFFFFFFFF), "g2": Checkpoint("g2", 20, 2, 2)}
    store.forget_segment(NODE, "g1")
    assert store.checkpoints(NODE) == {"g2": Checkpoint("g2", 20, 2, 2)}
    assert store.checkpoints("node-b") == {"g1": Checkpoint("g1", 99, 9, 9)}


def test_dropped_and_unrouted_objects_are_instances_without_deliveries(store: JobStore) -> None:
    taken = store.take_in(
        NODE, [arrival("1.1", verdict=Routed.DROPPED), arrival("1.2", verdict=Routed.UNROUTED)], [], [], 1.0
    )
    assert (taken.instances, taken.dropped, taken.unrouted, taken.queued) == (2, 1, 1, {})
    assert store.marks.counts()[Mark.UNROUTED] == 1
    ledger = store.ledger()
    assert (ledger.dropped, ledger.unrouted, ledger.routed, ledger.imbalance) == (1, 1, 0, 0)
    assert [row.verdict for row in store.trace("1.2.3")] == [Routed.DROPPED, Routed.UNROUTED]


def test_an_unparsed_object_is_routed_and_flagged(store: JobStore) -> None:
    store.take_in(
        NODE,
        [
            arrival("1.1", keys=RoutingKeys(complete=False, problem="deflated head is broken")),
            arrival("1.2", keys=RoutingKeys(complete=False)),
            arrival("1.3"),
        ],
        [],
        [],
        1.0,
    )
    assert claims(store) == ["1.1", "1.2", "1.3"]
    assert store.marks.counts()[Mark.UNPARSED] == 2
    assert [store.trace(uid)[0].problem for uid in ("1.1", "1.2", "1.3")] == [
        "deflated head is broken",
        "the head can't be read",
        "",
    ]


def test_identifiers_can_be_kept_out(url: str, sql: Sql) -> None:
    store = JobStore.open(url, identifiers=False)
    store.migrate()
    store.take_in(NODE, [arrival()], [], [], 1.0)
    assert sql("SELECT accession_number, patient_id FROM instance") == [("", "")]
    assert store.trace("PID-1.2.3") == store.trace("ACC-1.2.3") == store.trace("") == []
    assert len(store.trace("1.2.3")) == 1
    store.close()


def test_an_association_is_known_from_its_first_object_and_completed_by_its_end(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival(received_at=100.0)], [], [], 101.0)
    assert sql("SELECT calling_ae, started_at, ended_at, objects FROM association") == [("CT1", 100.0, None, None)]
    store.take_in(NODE, [], [end(objects=1)], [], 201.0)
    store.take_in(NODE, [], [end(objects=1)], [], 202.0)
    store.take_in(NODE, [], [end("assoc-empty", objects=0)], [], 203.0)
    assert sql("SELECT association_id, started_at, ended_at, objects, outcome FROM association ORDER BY 1") == [
        ("assoc-1", 99.0, 200.0, 1, "released"),
        ("assoc-empty", 99.0, 200.0, 0, "released"),
    ]


@pytest.mark.parametrize(
    "hostile",
    ["", "1.2\0.3", "1.2.\ud800", "../../etc/passwd", "x" * 70_000, "1.2.3\n%s", "\N{PILE OF POO}" * 200],
    ids=["empty", "nul", "surrogate", "path", "long", "control", "astral"],
)
def test_no_value_of_a_peer_stops_intake(store: JobStore, hostile: str) -> None:
    keys = RoutingKeys(
        study_instance_uid=hostile,
        series_instance_uid=hostile,
        sop_instance_uid=hostile,
        accession_number=hostile,
        patient_id=hostile,
        study_date=hostile,
        modality=hostile,
        complete=False,
        problem=hostile,
    )
    batch = [arrival(hostile, keys=keys, calling_ae=hostile, association=hostile or "a")]
    assert store.take_in(NODE, batch, [end(hostile or "a", objects=2)], [], 1.0).instances == 1
    assert store.take_in(NODE, batch, [], [], 2.0).duplicates == 1
    assert len(store.claim("pacs", node=NODE, limit=10, lease_seconds=1, now=3.0)) == 1
    assert store.ledger().imbalance == 0

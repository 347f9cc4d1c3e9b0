"""Staged objects that no row names become rows; those that are there keep what they say; a failover is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relaypacs.errors import RowsLost
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, Drain
from relaypacs.model import Checkpoint, Routed, State
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, SENT, arrival, end, settled


def staged(uid: str = "1.2.3.1", *, key: str = "", hold: bool = True, content: str | None = None) -> Arrival:
    """An object found in staging."""
    return replace(arrival(uid, content=content), staged_key=key or f"key-{uid}", hold=hold)


def states(store: JobStore) -> list[State]:
    return [one.state for row in store.trace("1.2.3") for one in row.deliveries]


def test_an_object_without_a_row_gets_one(store: JobStore) -> None:
    assert store.restoring.is_empty()
    assert store.restoring.unknown(["key-1.1", "key-1.2"]) == ["key-1.1", "key-1.2"]
    done = store.restoring.restore(NODE, [staged("1.1"), staged("1.2", hold=False)], 50.0)
    assert (done.instances, done.held, done.queued, done.found_again, done.surplus) == (2, 1, {"pacs": 1}, 0, 0)
    assert not store.restoring.is_empty()
    assert store.restoring.unknown(["key-1.1", "other", "key-1.2"]) == ["other"]
    assert states(store) == [State.HELD, State.QUEUED]
    assert all(row.staged and not row.in_spool for row in store.trace("1.2.3"))
    (claim,) = store.claim("pacs", node=NODE, limit=9, lease_seconds=9, now=51.0)
    assert (claim.location.staged_key, claim.location.generation) == ("key-1.2", None)
    book = store.ledger()
    assert (book.received, book.instances, book.held, book.pending, book.imbalance) == (2, 2, 1, 1, 0)


def test_an_object_counts_in_its_association_if_that_is_known(store: JobStore) -> None:
    """Its end told of two objects; one row was lost."""
    store.take_in(NODE, [arrival("1.1")], [end(objects=2)], [], 1.0)
    assert store.ledger().imbalance == 1
    store.restoring.restore(NODE, [staged("1.2")], 50.0)
    assert (store.ledger().received, store.ledger().imbalance) == (2, 0)


def test_what_the_spool_still_has_of_an_unknown_association_is_received_in_it(store: JobStore) -> None:
    store.restoring.restore(NODE, [staged("1.1")], 50.0)
    assert store.trace("1.2.3")[0].association_id == "restored CT1"
    store.take_in(NODE, [arrival("1.1")], [end(objects=1)], [], 51.0)
    book = store.ledger()
    assert (book.received, book.instances, book.duplicates, book.held, book.imbalance) == (2, 1, 1, 1, 0)


def test_restoring_twice_is_restoring_once(store: JobStore) -> None:
    for _ in range(2):
        done = store.restoring.restore(NODE, [staged("1.1"), staged("1.1", key="second")], 50.0)
    assert (done.instances, done.found_again, done.surplus) == (0, 0, 2)
    book = store.ledger()
    assert (book.received, book.duplicates, book.held, book.imbalance) == (1, 0, 1, 0)


def test_a_row_that_lost_its_copy_gets_it_back_and_keeps_what_it_says(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    first, second = store.claim("pacs", node=NODE, limit=9, lease_seconds=9, now=2.0)
    store.settle(settled([first], SENT), 3.0)
    store.give_back([second])
    store.forget_segment(NODE, "g1")
    done = store.restoring.restore(NODE, [staged("1.1"), staged("1.2")], 50.0)
    assert (done.instances, done.found_again, done.held) == (0, 2, 0)
    assert states(store) == [State.DELIVERED, State.QUEUED]
    (claim,) = store.claim("pacs", node=NODE, limit=9, lease_seconds=9, now=51.0)
    assert claim.location.staged_key == "key-1.2"
    assert (store.ledger().received, store.ledger().imbalance) == (2, 0)


def test_a_row_whose_bytes_are_in_the_spool_keeps_them_there_too(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    assert store.restoring.restore(NODE, [staged("1.1")], 50.0).found_again == 1
    (claim,) = store.claim("pacs", node=NODE, limit=9, lease_seconds=9, now=51.0)
    assert (claim.location.generation, claim.location.staged_key) == ("g1", "key-1.1")
    assert claim.location.file_offset == 5120


def test_what_is_being_put_or_deleted_or_another_nodes_is_left_alone(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    store.take_in("node-b", [arrival("1.3")], [], [], 1.0)
    ids = {row.sop_instance_uid: row.instance_id for row in store.trace("1.2.3")}
    store.will_stage([(ids["1.1"], "key-1.1")], node=NODE)
    assert store.restoring.unknown(["key-1.1"]) == []
    done = store.restoring.restore(NODE, [staged("1.1"), staged("1.3")], 50.0)
    assert (done.instances, done.found_again, done.surplus) == (0, 0, 2)
    assert not any(row.staged for row in store.trace("1.2.3"))


def test_other_bytes_under_the_uid_are_a_conflict_as_ever(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    store.restoring.restore(NODE, [staged("1.1", content="other")], 50.0)
    assert [row.conflict for row in store.trace("1.2.3")] == [True, True]
    assert store.ledger().imbalance == 0


def test_what_no_rule_wants_is_restored_all_the_same(store: JobStore) -> None:
    lost = replace(arrival("1.1", verdict=Routed.UNROUTED), staged_key="key", hold=True)
    assert store.restoring.restore(NODE, [lost], 50.0).instances == 1
    assert store.marks.counts()[Mark.UNROUTED] == 1
    assert store.ledger().imbalance == 0


def lose(sql: Sql) -> None:
    """What an asynchronous standby may do: the last transaction is not there."""
    for table in ("delivery", "instance", "tally", "association", "checkpoint"):
        sql(f"DELETE FROM {table}")


def test_rows_that_a_standby_lost_are_missed_before_more_are_added(store: JobStore, url: str, sql: Sql) -> None:
    store.take_in(NODE, [arrival("1.1", at_end=100)], [], [Checkpoint("g1", 100, 1, 1)], 1.0, begun={"g1": 0})
    lose(sql)

    def go_on() -> None:
        again = [arrival("1.2", at_end=200)]
        store.take_in(NODE, again, [], [Checkpoint("g1", 200, 2, 2)], 2.0, begun={"g1": 100})

    if url.startswith("sqlite"):
        go_on()  # it is not asked: one file loses nothing by itself
        return
    with pytest.raises(RowsLost):
        go_on()
    assert store.checkpoints(NODE) == {}
    with pytest.raises(RowsLost):
        store.segment_needed(NODE, "g1", keep=False, end=100)
    assert store.segment_needed(NODE, "g1", keep=False) is False


def test_a_claim_that_a_failover_lost_is_not_mistaken_for_anothers(store: JobStore, sql: Sql) -> None:
    """The new primary gives the same id and token to another delivery; only the lease tells them apart."""
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=1, lease_seconds=60, now=2.0)
    sql("UPDATE delivery SET lease = lease + 1")
    assert store.settle(settled(claims), 3.0) == 0
    store.give_back(claims)
    store.renew(claims, lease_seconds=600, now=3.0)
    assert states(store) == [State.ACTIVE]
    assert store.next_due("pacs", 4.0) == 62.0


def test_a_history_that_is_another_is_seen_until_it_is_dealt_with(store: JobStore, url: str, sql: Sql) -> None:
    joined = store.join(NODE, "folder", 1.0)
    assert not joined.failed_over
    assert store.nodes.timeline() == joined.timeline
    assert (joined.timeline == "") == url.startswith("sqlite")
    assert not store.join(NODE, "folder", 2.0).failed_over
    if joined.timeline:
        sql("UPDATE node SET timeline = 'another/00000001'")
        assert store.join(NODE, "folder", 3.0).failed_over
        assert store.join(NODE, "folder", 4.0).failed_over
        store.nodes.recovered(NODE, joined.timeline)
        assert not store.join(NODE, "folder", 5.0).failed_over


def test_a_node_can_be_asked_to_take_nothing_more_in(store: JobStore) -> None:
    assert store.nodes.drain(NODE, 5.0) is False
    store.join(NODE, "folder", 1.0)
    assert store.nodes.draining_since(NODE) is None
    assert store.nodes.drain(NODE, 5.0) is True
    assert store.nodes.draining_since(NODE) == 5.0
    store.join(NODE, "folder", 6.0)
    assert store.nodes.draining_since(NODE) == 5.0, "a restart does not undo it"
    store.nodes.drain(NODE, None)
    assert store.nodes.draining_since(NODE) is None


def test_only_an_answer_to_the_last_request_counts(store: JobStore) -> None:
    assert store.nodes.answers(NODE) is None
    store.join(NODE, "folder", 1.0)
    assert store.nodes.answers(NODE) is None, "it is not asked"
    store.nodes.drain(NODE, 5.0)
    store.nodes.answer(NODE, 5.0, None)
    assert store.nodes.answers(NODE) == Drain(answers=1, drained=False)
    store.nodes.answer(NODE, 5.0, 6.0)
    assert store.nodes.answers(NODE) == Drain(answers=2, drained=True)
    store.nodes.drain(NODE, 7.0)
    store.nodes.answer(NODE, 5.0, 7.5)
    assert store.nodes.answers(NODE) == Drain(answers=0, drained=False), "that was to the request before"
    store.nodes.answer(NODE, 7.0, 8.0)
    store.join(NODE, "folder", 9.0)
    assert store.nodes.answers(NODE) == Drain(answers=1, drained=False), "another life has to look for itself"
    store.nodes.drain(NODE, None)
    store.nodes.answer(NODE, 7.0, 10.0)
    assert store.nodes.answers(NODE) is None

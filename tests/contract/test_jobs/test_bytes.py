"""Which bytes must stay, which must be staged, and which may go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import create_engine

from relaypacs.jobs import bytes as instance_bytes
from relaypacs.jobs.store import JobStore
from relaypacs.model import Deferred, Outcome, Routed, Scope
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, discarded, resent, settled


def put(store: JobStore, keys: Sequence[tuple[int, str]], now: float) -> None:
    """What the sweep does around copying the files."""
    assert store.will_stage(keys, node=NODE) == {instance_id for instance_id, _ in keys}
    store.staged(keys, now)


def settle_all(store: JobStore, outcome: Outcome, now: float = 200.0, retry_at: float | None = None) -> None:
    batch = store.claim("pacs", node=NODE, limit=100, lease_seconds=60, now=now)
    assert store.settle(settled(batch, outcome, retry_at=retry_at), now) == len(batch) > 0


def to_stage(store: JobStore, keep: bool = False, before: float = 1e9, node: str = NODE) -> list[str]:
    return [one.sop_instance_uid for one in store.to_stage(node, received_before=before, keep=keep, limit=100)]


def stage(store: JobStore, now: float = 300.0) -> list[int]:
    found = store.to_stage(NODE, received_before=1e9, keep=True, limit=100)
    put(store, [(one.instance_id, f"key-{one.instance_id}") for one in found], now)
    return [one.instance_id for one in found]


def purgeable(store: JobStore, before: float = 1000.0, limit: int = 100) -> list[tuple[int, str]]:
    return store.purgeable(NODE, settled_before=before, limit=limit)


@pytest.mark.parametrize(
    ("fate", "owed", "kept"),
    [
        ("queued", True, True),
        ("active", True, True),
        ("deferred", True, True),
        ("failed", True, True),
        ("held", True, True),
        ("unrouted", True, True),
        ("delivered", False, True),
        ("discarded", False, True),
        ("dropped", False, False),
    ],
)
def test_what_is_owed_stays_and_what_is_kept_is_staged(store: JobStore, fate: str, owed: bool, kept: bool) -> None:
    if fate in ("unrouted", "dropped"):
        store.take_in(NODE, [arrival(verdict=Routed(fate))], [], [], 1.0)
    elif fate == "held":
        store.take_in(NODE, [arrival("0.1", content="x", generation="g0")], [], [], 1.0)
        store.take_in(NODE, [arrival("0.1", content="y", conflict="hold-newer")], [], [], 1.0)
        settle_all(store, SENT)
    else:
        store.take_in(NODE, [arrival()], [], [], 1.0)
    if fate == "active":
        store.claim("pacs", node=NODE, limit=1, lease_seconds=60, now=2.0)
    elif fate == "deferred":
        settle_all(store, Deferred("later", Scope.SITE), retry_at=900.0)
    elif fate == "failed":
        settle_all(store, REFUSED)
    elif fate == "delivered":
        settle_all(store, SENT)
    elif fate == "discarded":
        discarded(store, "1.2.3", "pacs", 2.0)
    assert bool(to_stage(store, keep=False)) is owed
    hot = {one.generation for one in store.to_stage(NODE, received_before=1e9, keep=True, limit=9)}
    assert ("g1" in hot) is kept
    assert store.segment_needed(NODE, "g1", keep=True) is kept
    assert store.segment_needed(NODE, "g1", keep=False) is owed


def test_one_destination_that_has_it_is_not_all(store: JobStore) -> None:
    store.take_in(NODE, [arrival(to=("pacs", "cloud"))], [], [], 1.0)
    settle_all(store, SENT)
    assert store.segment_needed(NODE, "g1", keep=False) is True


def test_what_to_stage_says_all_staging_needs(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1", received_at=50.0), arrival("1.2", received_at=40.0)], [], [], 1.0)
    newer, older = arrival("1.1"), arrival("1.2")
    rows = store.to_stage(NODE, received_before=50.1, keep=False, limit=10)
    assert [(one.sop_instance_uid, one.digest) for one in rows] == [("1.2", older.digest), ("1.1", newer.digest)]
    one = rows[0]
    assert (one.generation, one.file_offset, one.file_length, one.received_at) == ("g1", 5120, 33_000, 40.0)
    assert (one.study_instance_uid, one.study_date) == ("1.2.3", "20240229")
    assert to_stage(store, before=50.0) == ["1.2"]
    assert to_stage(store, node="node-b") == []
    assert len(store.to_stage(NODE, received_before=1e9, keep=False, limit=1)) == 1


def test_staged_bytes_free_the_segment(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    assert store.segment_needed(NODE, "g1", keep=False) is True
    stage(store)
    assert to_stage(store, keep=True) == []
    assert store.segment_needed(NODE, "g1", keep=True) is False
    (claim,) = store.claim("pacs", node=NODE, limit=1, lease_seconds=60, now=400.0)
    assert (claim.location.generation, claim.location.staged_key) == (None, "key-1")


def test_an_unknown_segment_is_not_needed(store: JobStore) -> None:
    assert store.segment_needed(NODE, "nothing", keep=True) is False
    store.take_in(NODE, [arrival()], [], [], 1.0)
    assert store.segment_needed("node-b", "g1", keep=True) is False


def test_a_segment_said_to_be_unneeded_is_counted_on_by_nobody(store: JobStore) -> None:
    """Between that answer and the freeing an identical object may arrive, or a person may send the study again."""
    store.take_in(NODE, [arrival(generation="g1")], [], [], 1.0)
    settle_all(store, SENT)
    assert store.segment_needed(NODE, "g1", keep=False) is False
    again = resent(store, "1.2.3", "pacs", 250.0)
    assert (again.changed, again.no_bytes) == (0, 1)
    store.take_in(NODE, [arrival(generation="g2")], [], [], 251.0)
    store.forget_segment(NODE, "g1")
    (claim,) = store.claim("pacs", node=NODE, limit=1, lease_seconds=60, now=252.0)
    assert claim.location.generation == "g2"


def test_a_segment_that_is_needed_loses_nothing_by_the_question(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2", to=("cloud",))], [], [], 1.0)
    settle_all(store, SENT)
    assert store.segment_needed(NODE, "g1", keep=False) is True
    assert all(row.in_spool for row in store.trace("1.2.3"))


def test_only_settled_and_staged_long_enough_is_purged(store: JobStore) -> None:
    uids = ["done", "owed", "recent", "dropped"]
    store.take_in(NODE, [arrival(f"1.{uid}", study=uid) for uid in uids], [], [], 1.0)
    stage(store, now=300.0)
    batch = {one.study_instance_uid: one for one in store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)}
    store.settle(settled([batch["done"]]), 400.0)
    store.settle(settled([batch["owed"]], REFUSED), 400.0)
    store.settle(settled([batch["recent"]]), 600.0)
    store.give_back([batch["dropped"]])
    discarded(store, "dropped", "pacs", 400.0)
    assert purgeable(store, before=300.0) == []
    assert purgeable(store, before=500.0) == [(1, "key-1"), (4, "key-4")]
    assert [row.staged for uid in uids for row in store.trace(uid)] == [False, True, True, False]
    store.purged([(1, "key-1"), (4, "key-4")])
    assert purgeable(store, before=500.0) == []
    assert purgeable(store, before=1000.0) == [(3, "key-3")]


def test_a_purge_that_was_cut_short_is_finished(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(3)], [], [], 1.0)
    stage(store)
    settle_all(store, SENT)
    assert len(purgeable(store, limit=2)) == 2
    assert len(purgeable(store, limit=3)) == 3
    store.purged([(number, f"key-{number}") for number in (1, 2, 3)])
    assert purgeable(store) == []


def test_bytes_being_purged_count_as_gone_and_nothing_is_staged_in_their_place(store: JobStore) -> None:
    store.take_in(NODE, [arrival(generation="g1")], [], [], 1.0)
    stage(store)
    store.segment_needed(NODE, "g1", keep=True)
    settle_all(store, SENT)
    assert purgeable(store) == [(1, "key-1")]
    assert resent(store, "1.2.3", "pacs", 500.0).no_bytes == 1
    store.take_in(NODE, [arrival(generation="g2")], [], [], 501.0)
    assert to_stage(store) == []  # its key is the one being deleted
    assert store.segment_needed(NODE, "g2", keep=False) is True
    store.purged([(1, "key-1")])
    assert to_stage(store) == ["1.2.3.1"]


def test_what_is_owed_again_by_the_time_of_purging_stays(store: JobStore, url: str) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    stage(store)
    engine = create_engine(url)
    with engine.begin() as connection:
        assert instance_bytes.mark_purgeable(connection, [1, 2]) == []
    engine.dispose()
    assert all(row.staged for row in store.trace("1.2.3"))


def test_purging_looks_at_everything_in_bounded_steps(store: JobStore) -> None:
    count = instance_bytes.PURGE_LOOKS_AT + 10
    store.take_in(NODE, [arrival(f"1.{number:05d}") for number in range(count)], [], [], 1.0)
    found = store.to_stage(NODE, received_before=1e9, keep=True, limit=count)
    put(store, [(one.instance_id, str(one.instance_id)) for one in found], 300.0)
    batch = store.claim("pacs", node=NODE, limit=count, lease_seconds=60, now=200.0)
    store.settle(settled(batch[-10:]), 200.0)  # the others stay owed, and are in the way
    assert purgeable(store) == []
    assert len(purgeable(store, limit=4)) == 4
    store.purged([(one.instance_id, str(one.instance_id)) for one in batch])
    assert len(purgeable(store, limit=100)) == 6


def test_a_file_is_known_before_it_is_put(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    assert store.will_stage([(1, "key-1"), (2, "key-2"), (3, "key-3")], node=NODE) == {1, 2}, "there is no instance 3"
    # The process dies here, with files or without; the next life deletes before it stages.
    assert to_stage(store) == []
    assert store.will_stage([(1, "key-1")], node=NODE) == set()
    assert store.segment_needed(NODE, "g1", keep=False) is True
    assert purgeable(store, before=0.0) == [(1, "key-1"), (2, "key-2")]
    assert store.purgeable(NODE, settled_before=None, limit=9) == [(1, "key-1"), (2, "key-2")]
    store.purged([(1, "key-1"), (2, "another")])
    assert to_stage(store) == ["1.1"]
    store.staged([(1, "key-1"), (2, "other")], 2.0)
    assert not any(row.staged for row in store.trace("1.2.3")), "only under a key that was announced"
    store.staged([(2, "key-2")], 2.0)
    assert [row.staged for row in store.trace("1.2.3")] == [False, True]
    assert store.purgeable(NODE, settled_before=None, limit=9) == []


def test_what_is_staged_is_not_announced_again(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    stage(store)
    assert store.will_stage([(1, "key-9")], node=NODE) == set()

"""New deliveries leased in the transaction that makes them: the caller's own from the first moment, like any claim."""

from __future__ import annotations

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival, AtOnce, TakenIn
from relaypacs.model import Checkpoint, Claim, State
from tests.unit.jobs.made import NODE, arrival, resent, settled

LEASE = 60.0


def take_in(store: JobStore, arrivals: list[Arrival], now: float = 1000.0, **room: int) -> TakenIn:
    return store.take_in(NODE, arrivals, [], [], now, at_once=AtOnce(room, LEASE))


def claim(store: JobStore, now: float = 1001.0) -> list[Claim]:
    return store.claim("pacs", node=NODE, limit=100, lease_seconds=LEASE, now=now)


def test_they_say_what_a_claim_says(store: JobStore) -> None:
    (ours,) = take_in(store, [arrival(priority=3)], pacs=5).claims
    assert claim(store) == [], "they are nobody else's"
    (again,) = claim(store, now=1061.0)
    assert (again.token, again.lease != ours.lease) == (2, True)
    theirs = {name: getattr(again, name) for name in Claim.__slots__ if name not in ("token", "lease")}  # type: ignore[attr-defined]
    assert theirs == {name: getattr(ours, name) for name in theirs}
    assert (ours.token, ours.first_queued_at) == (1, 1000.0)


def test_as_many_as_there_is_room_for_the_urgent_ones_first(store: JobStore) -> None:
    batch = [arrival("1.1"), arrival("1.2", priority=5), arrival("1.3", to=("pacs", "cloud")), arrival("1.4")]
    taken = take_in(store, batch, pacs=2)
    assert {(one.destination, one.sop_instance_uid) for one in taken.claims} == {("pacs", "1.2"), ("pacs", "1.1")}
    assert dict(taken.queued) == {"pacs": 2, "cloud": 1}
    assert [one.sop_instance_uid for one in claim(store)] == ["1.3", "1.4"]
    assert store.ledger().pending == 5


def test_they_are_settled_given_back_and_renewed_as_others_are(store: JobStore) -> None:
    first, second, third = take_in(store, [arrival("1.1"), arrival("1.2"), arrival("1.3")], pacs=9).claims
    assert store.settle(settled([first]), 1001.0) == 1
    assert store.settle(settled([first]), 1001.0) == 0
    store.give_back([second])
    store.renew([third], lease_seconds=LEASE, now=1050.0)
    (again,) = claim(store, now=1100.0)
    assert (again.sop_instance_uid, again.attempts, again.token) == ("1.2", 0, 2)
    assert {row.deliveries[0].state for row in store.trace("1.1")} == {State.DELIVERED}
    (late,) = claim(store, now=1111.0)
    assert late.sop_instance_uid == "1.3"
    assert store.settle(settled([third]), 1112.0) == 0, "its lease was over and another has it"


def test_held_and_known_ones_are_not_among_them(store: JobStore) -> None:
    take_in(store, [arrival("1.1", content="a")])
    store.settle(settled(claim(store)), 1002.0)
    batch = [
        arrival("1.1", content="a"),  # again: queued anew
        arrival("1.1", content="b", conflict="hold-newer"),
        arrival("1.2"),
    ]
    taken = take_in(store, batch, now=1003.0, pacs=9)
    assert [one.sop_instance_uid for one in taken.claims] == ["1.2"]
    assert (dict(taken.queued)["pacs"], taken.held) == (1, 1)
    assert [one.sop_instance_uid for one in claim(store, now=1004.0)] == ["1.1"]


def test_the_books_balance_and_a_restart_ends_their_leases(store: JobStore) -> None:
    store.join(NODE, "identity", 999.0)
    taken = take_in(store, [arrival(f"1.{number}") for number in range(3)], pacs=2)
    assert len(taken.claims) == 2
    assert (store.ledger().pending, store.ledger().imbalance) == (3, 0)
    assert store.join(NODE, "identity", 1001.0).leases_ended == 2
    assert len(claim(store)) == 3
    assert store.settle(settled(taken.claims), 1002.0) == 0


def test_a_batch_that_comes_a_second_time_leases_nothing(store: JobStore) -> None:
    batch, ends = [arrival("1.1", at_end=100)], [Checkpoint("g1", 100, 1, 7)]
    assert len(store.take_in(NODE, batch, [], ends, 1000.0, at_once=AtOnce({"pacs": 9}, LEASE)).claims) == 1
    again = store.take_in(NODE, batch, [], ends, 1001.0, at_once=AtOnce({"pacs": 9}, LEASE))
    assert (list(again.claims), dict(again.queued)) == ([], {})


def test_what_is_sent_again_has_a_delivery_of_its_own(store: JobStore) -> None:
    taken = take_in(store, [arrival("1.1")], pacs=1)
    assert resent(store, "1.2.3", "pacs", 1001.0).already_live == 1
    store.settle(settled(taken.claims), 1002.0)
    assert resent(store, "1.2.3", "pacs", 1003.0).changed == 1


@pytest.mark.parametrize("room", [{}, {"cloud": 5}, {"pacs": 0}])
def test_without_room_all_is_queued(store: JobStore, room: dict[str, int]) -> None:
    taken = take_in(store, [arrival("1.1")], **room)
    assert (list(taken.claims), dict(taken.queued)) == ([], {"pacs": 1})

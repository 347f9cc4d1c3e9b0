"""What was delivered is looked for; only what is missing is sent again, so often and no oftener; rows tell of it."""

from __future__ import annotations

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.verification import Verified
from relaypacs.model import State
from tests.unit.jobs.made import NODE, REFUSED, arrival, settled

STUDY = "1.2.3"
WHY = "the destination does not list it"


def deliver(store: JobStore, *uids: str, at: float) -> None:
    """Receive, note and settle, as the node does."""
    store.take_in(NODE, [arrival(one) for one in uids], [], [], at)
    settle(store, at)


def settle(store: JobStore, at: float) -> None:
    claims = store.claim("pacs", node=NODE, limit=99, lease_seconds=60, now=at)
    store.destinations.verifications.note(
        {(one.destination, one.study_instance_uid) for one in claims}, NODE, at, due_at=at + 30
    )
    store.settle(settled(claims), at)


def the_one(store: JobStore) -> Verified:
    (found,) = store.destinations.verifications.of_study(STUDY)
    return found


def expected(store: JobStore) -> tuple[set[str], int]:
    found, pending = store.destinations.verifications.expected(the_one(store))
    return {one.sop_instance_uid for one in found}, pending


def states(store: JobStore, uid: str) -> list[State]:
    return [one.state for row in store.trace(uid) for one in row.deliveries]


def lose(store: JobStore, uid: str, *, now: float, rounds: int = 2) -> tuple[int, int]:
    book = store.destinations.verifications
    found, _ = book.expected(the_one(store))
    lost = [one for one in found if one.sop_instance_uid == uid]
    return book.missing(the_one(store), lost, expected=len(found), rounds=rounds, now=now, due_at=now + 30, reason=WHY)


def test_a_study_is_due_until_all_of_it_was_found(store: JobStore) -> None:
    book = store.destinations.verifications
    deliver(store, "1.a", "1.b", at=100.0)
    assert book.due(["pacs"], NODE, 129.0, limit=9) == []
    assert book.due(["pacs"], "node-b", 999.0, limit=9) == []
    assert book.due(["another"], NODE, 130.0, limit=9) == book.due([], NODE, 130.0, limit=9) == []
    assert [book.next_due(of, NODE) for of in (["pacs"], ["another"], [])] == [130.0, None, None]
    (one,) = book.due(["pacs"], NODE, 130.0, limit=9)
    assert (one.destination, one.study_instance_uid, one.rounds) == ("pacs", STUDY, 0)
    assert expected(store) == ({"1.a", "1.b"}, 0)
    book.settled(one, expected=2, found=2, now=131.0)
    assert book.due(["pacs"], NODE, 1e9, limit=9) == []
    assert (the_one(store).expected, the_one(store).found, the_one(store).checked_at) == (2, 2, 131.0)
    # What comes later is looked for alone: the destination may have put the others away.
    deliver(store, "1.c", at=1000.0)
    assert expected(store) == ({"1.c"}, 0)


def test_what_was_delivered_meanwhile_is_still_asked_for(store: JobStore) -> None:
    book = store.destinations.verifications
    deliver(store, "1.a", at=100.0)
    (one,) = book.due(["pacs"], NODE, 130.0, limit=9)
    deliver(store, "1.b", at=131.0)
    book.settled(one, expected=1, found=1, now=132.0)
    assert [each.due_at for each in book.due(["pacs"], NODE, 200.0, limit=9)] == [161.0]
    assert expected(store) == ({"1.a", "1.b"}, 0)


def test_also_if_what_was_missing_became_a_dead_letter_then(store: JobStore) -> None:
    book = store.destinations.verifications
    deliver(store, "1.a", at=100.0)
    (one,) = book.due(["pacs"], NODE, 130.0, limit=9)
    lost, _ = book.expected(one)
    deliver(store, "1.b", at=131.0)
    assert book.missing(one, lost, expected=1, rounds=0, now=132.0, due_at=162.0, reason=WHY) == (0, 1)
    (again,) = book.due(["pacs"], NODE, 161.0, limit=9)
    assert (again.rounds, again.reason) == (0, WHY)
    assert expected(store) == ({"1.b"}, 0)


def test_what_a_node_settles_whose_clock_is_behind_is_looked_for(store: JobStore) -> None:
    deliver(store, "1.a", at=1000.0)
    deliver(store, "1.b", at=900.0)
    deliver(store, "1.c", at=1001.0)
    assert expected(store) == ({"1.a", "1.b", "1.c"}, 0)


def test_only_what_is_missing_is_sent_again_and_not_for_ever(store: JobStore) -> None:
    deliver(store, "1.a", "1.b", at=100.0)
    for number in (1, 2):
        now = 1000.0 * number
        assert lose(store, "1.b", now=now) == (1, 0)
        assert expected(store) == ({"1.a"}, 1), "what is on its way is not asked for"
        assert the_one(store).rounds == number
        claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=now)
        assert [each.sop_instance_uid for each in claims] == ["1.b"]
        store.give_back(claims)
        settle(store, now + 1)
        assert the_one(store).rounds == number
        assert expected(store) == ({"1.a", "1.b"}, 0)
    assert lose(store, "1.b", now=5000.0) == (0, 1)
    assert states(store, "1.a") == [State.DELIVERED]
    assert states(store, "1.b") == [State.DELIVERED] * 3 + [State.FAILED]
    assert store.trace("1.b")[0].deliveries[-1].reason == WHY
    assert (the_one(store).due_at, the_one(store).reason, the_one(store).found) == (None, WHY, 1)
    assert store.ledger().imbalance == store.ledger(study=STUDY).imbalance == 0
    assert store.ledger().failed == 1


def test_without_bytes_it_is_a_dead_letter_at_once(store: JobStore) -> None:
    deliver(store, "1.a", "1.b", at=100.0)
    store.forget_segment(NODE, "g1")
    assert lose(store, "1.b", now=200.0) == (0, 1)
    assert states(store, "1.b") == [State.DELIVERED, State.FAILED]
    assert store.ledger().imbalance == 0


def test_only_what_the_destination_said_it_has_is_expected(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{name}") for name in "abcd"], [], [], 90.0)
    a, b, c, d = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=95.0)
    store.destinations.verifications.note({("pacs", STUDY)}, NODE, 99.0, due_at=130.0)
    store.settle(settled([a]) + settled([b], REFUSED), 100.0)
    store.give_back([c])
    assert expected(store) == ({"1.a"}, 2)
    assert d is not None


def test_asked_later(store: JobStore) -> None:
    book = store.destinations.verifications
    deliver(store, "1.a", at=100.0)
    book.later(the_one(store), 500.0, tries=3, reason="it does not answer")
    assert book.due(["pacs"], NODE, 499.0, limit=9) == []
    assert (the_one(store).tries, the_one(store).reason) == (3, "it does not answer")
    book.give_up(["pacs"], NODE)
    assert the_one(store).due_at == 500.0
    book.give_up([], NODE)
    assert the_one(store).due_at is None


@pytest.mark.parametrize("known", [1, 2])
def test_it_is_forgotten_with_the_study(store: JobStore, known: int) -> None:
    deliver(store, "1.a", "1.b", at=100.0)
    store.forget_segment(NODE, "g1")
    assert store.forget(settled_before=500.0, limit=known) == known
    assert len(store.destinations.verifications.of_study(STUDY)) == 2 - known

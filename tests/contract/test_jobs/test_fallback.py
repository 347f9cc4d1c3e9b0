"""What waits for a destination that does not answer goes to another one: once, counted, and the first is not lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine

from relaypacs.jobs import delivery
from relaypacs.jobs.store import JobStore
from relaypacs.model import State
from tests.unit.jobs.made import NODE, REFUSED, SENT, SITE_DOWN, arrival, released, resent, settled

WHY = "a copy goes to spare"


def states(store: JobStore, uid: str) -> dict[str, State]:
    return {one.destination: one.state for row in store.trace(uid) for one in row.deliveries}


def give(store: JobStore, ids: list[int], *, instead: bool = False, now: float = 100.0) -> int:
    return store.destinations.fallbacks.give(ids, "pacs", to="spare", node=NODE, instead=instead, reason=WHY, now=now)


def waiting(store: JobStore, *, queued_after: float = 0.0) -> list[int]:
    return store.destinations.fallbacks.waiting("pacs", NODE, queued_after=queued_after)


@pytest.fixture
def filled(store: JobStore) -> JobStore:
    """Of each kind one: untried, tried, under way, delivered, failed, held, with the fallback by a rule."""
    names = ["1.queued", "1.deferred", "1.active", "1.done", "1.failed"]
    store.take_in(NODE, [arrival(one, priority=9 - at) for at, one in enumerate(names)], [], [], 1.0)
    claims = {one.sop_instance_uid: one for one in store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0)}
    store.settle(settled([claims["1.done"]]) + settled([claims["1.failed"]], REFUSED), 3.0)
    store.settle(settled([claims["1.deferred"]], SITE_DOWN, retry_at=1e10), 3.0)
    store.give_back([claims["1.queued"]])
    store.take_in(NODE, [arrival("1.both", to=("pacs", "spare"))], [], [], 4.0)
    return store


@pytest.mark.parametrize("instead", [False, True])
def test_what_waits_is_given_once(filled: JobStore, instead: bool) -> None:
    store = filled
    ids = waiting(store)
    assert len(ids) == 3
    assert give(store, ids, instead=instead) == 2
    left = State.DISCARDED if instead else None
    assert states(store, "1.queued") == {"pacs": left or State.QUEUED, "spare": State.QUEUED}
    assert states(store, "1.deferred") == {"pacs": left or State.DEFERRED, "spare": State.QUEUED}
    assert states(store, "1.both") == {"pacs": State.QUEUED, "spare": State.QUEUED}
    for uid in ("1.active", "1.done", "1.failed"):
        assert "spare" not in states(store, uid)
    original, given = store.trace("1.deferred")[0].deliveries
    assert original.reason == (WHY if instead else f"{SITE_DOWN.reason}; {WHY}")
    assert (original.settled_at, given.fallback_of) == (100.0 if instead else None, "pacs")
    assert store.ledger().imbalance == 0
    assert store.ledger(study="1.2.3").imbalance == 0

    # Never again, whatever becomes of it there.
    claims = store.claim("spare", node=NODE, limit=9, lease_seconds=60, now=200.0)
    assert {one.sop_instance_uid for one in claims} == {"1.queued", "1.deferred", "1.both"}
    store.settle(settled(claims[:1]) + settled(claims[1:], REFUSED), 201.0)
    assert give(store, ids, now=300.0) == give(store, waiting(store), now=300.0) == 0
    (outage,) = store.destinations.fallbacks.outages()
    assert (outage.fallback, outage.given) == ("spare", 2)
    assert store.ledger().imbalance == 0


def test_what_was_given_instead_goes_to_its_destination_again_if_somebody_says_so(filled: JobStore) -> None:
    give(filled, waiting(filled), instead=True)
    assert resent(filled, "1.2.3", "pacs", 200.0).changed > 0
    assert states(filled, "1.queued") == {"pacs": State.QUEUED, "spare": State.QUEUED}
    assert filled.ledger().imbalance == 0


def test_without_bytes_or_time_nothing_is_given(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.gone", generation="g2"), arrival("1.there")], [], [], 1.0)
    store.take_in("node-b", [arrival("1.elsewhere")], [], [], 1.0)
    store.take_in(NODE, [arrival("1.late")], [], [], 50.0)
    store.forget_segment(NODE, "g2")
    assert len(waiting(store)) == 3
    assert len(waiting(store, queued_after=50.0)) == 1
    assert give(store, waiting(store)) == 2
    assert states(store, "1.gone") == {"pacs": State.QUEUED}
    assert store.ledger().imbalance == 0


def test_a_held_one_stays_with_its_person(store: JobStore) -> None:
    store.take_in(NODE, [arrival("1.a")], [], [], 1.0)
    store.take_in(NODE, [arrival("1.a", content="other", conflict="hold-newer")], [], [], 1.0)
    assert give(store, waiting(store)) == 1
    assert released(store, "1.2.3", "pacs", 5.0) == 1
    assert give(store, waiting(store)) == 1


def test_two_at_once_give_it_once(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(200)], [], [], 1.0)
    ids = waiting(store)
    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(lambda _: give(store, ids), range(4))) == 200
    assert len(store.claim("spare", node=NODE, limit=999, lease_seconds=60, now=200.0)) == 200
    assert store.ledger().imbalance == 0


def test_what_is_just_being_claimed_goes_where_it_belongs_and_nowhere_else(url: str, store: JobStore) -> None:
    if url.startswith("sqlite"):
        pytest.skip("one transaction at a time")
    store.take_in(NODE, [arrival("1.probe"), arrival("1.waits")], [], [], 1.0)
    ids = waiting(store)
    engine = create_engine(url, connect_args={"prepare_threshold": None})
    with engine.begin() as connection:
        (claim,) = delivery.claim(connection, "pacs", homes=[NODE], limit=1, due_at=1e9, lease=7, now=2.0)
        assert give(store, ids, instead=True) == 1
    engine.dispose()
    assert states(store, "1.probe") == {"pacs": State.ACTIVE}
    assert states(store, "1.waits") == {"pacs": State.DISCARDED, "spare": State.QUEUED}
    assert store.settle(settled([claim], SITE_DOWN, retry_at=1e9), 3.0) == 1
    assert give(store, waiting(store), instead=True) == 1
    assert store.ledger().imbalance == 0


def test_an_outage_is_remembered_until_it_ends(store: JobStore) -> None:
    book = store.destinations.fallbacks
    assert book.began("pacs", NODE, 10.0) == 10.0
    assert book.began("pacs", NODE, 20.0) == 10.0
    assert book.began("pacs", "node-b", 15.0) == 15.0
    assert [(one.node, one.since, one.given) for one in book.outages()] == [(NODE, 10.0, 0), ("node-b", 15.0, 0)]
    ended = book.ended("pacs", NODE)
    assert ended is not None
    assert ended.since == 10.0
    assert book.ended("pacs", NODE) is None
    assert book.began("pacs", NODE, 30.0) == 30.0


def test_sent(filled: JobStore) -> None:
    """When the destination answers again, what was also given goes there as ever."""
    give(filled, waiting(filled))
    claims = filled.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=1e11)
    assert {"1.queued", "1.deferred", "1.both"} <= {one.sop_instance_uid for one in claims}
    filled.settle(settled(claims, SENT), 1e11)
    assert states(filled, "1.deferred")["pacs"] is State.DELIVERED
    assert filled.ledger().imbalance == 0

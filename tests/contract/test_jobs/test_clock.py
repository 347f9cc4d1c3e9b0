"""Leases end by the database's clock: a node whose own is an hour wrong takes nothing from others and loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from relaypacs.jobs.clock import Clock
from relaypacs.jobs.store import JobStore
from relaypacs.model import Deferred, Scope
from tests.unit.jobs.made import NODE, arrival, settled

LATER = Deferred("busy", Scope.SITE)


@pytest.fixture(params=[3600.0, -3600.0], ids=["an hour fast", "an hour slow"])
def wrong(request: pytest.FixtureRequest) -> Callable[[], float]:
    """A node's clock."""
    return lambda: time.time() + float(request.param)


@pytest.fixture
def skewed(url: str, store: JobStore, wrong: Callable[[], float]) -> Iterator[JobStore]:
    """The same table, seen by a node whose clock is wrong."""
    if url.startswith("sqlite"):
        pytest.skip("one machine, one clock")
    skewed = JobStore.open(url, now=wrong)
    yield skewed
    skewed.close()


def test_no_lease_is_taken_from_another(store: JobStore, skewed: JobStore, wrong: Callable[[], float]) -> None:
    store.take_in(NODE, [arrival()], [], [], time.time())
    claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time())
    assert skewed.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=wrong()) == []
    store.renew(claims, lease_seconds=60, now=time.time())
    assert skewed.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=wrong()) == []
    assert store.settle(settled(claims), time.time()) == 1


def test_its_own_leases_last_as_long_as_it_says(store: JobStore, skewed: JobStore, wrong: Callable[[], float]) -> None:
    store.take_in(NODE, [arrival()], [], [], time.time())
    claims = skewed.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=wrong())
    due = store.next_due("pacs", time.time())
    assert due == pytest.approx(time.time() + 60, abs=5)
    assert store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time()) == []
    skewed.renew(claims, lease_seconds=600, now=wrong())
    assert store.next_due("pacs", time.time()) == pytest.approx(time.time() + 600, abs=5)
    # What it is told is by its own clock.
    assert skewed.next_due("pacs", wrong()) == pytest.approx(wrong() + 600, abs=5)
    (other,) = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time() + 601)
    assert skewed.settle(settled(claims), wrong()) == 0
    assert store.settle(settled([other]), time.time()) == 1


def test_what_it_defers_waits_as_long_as_it_says(store: JobStore, skewed: JobStore, wrong: Callable[[], float]) -> None:
    store.take_in(NODE, [arrival()], [], [], time.time())
    claims = skewed.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=wrong())
    skewed.settle(settled(claims, LATER, retry_at=wrong() + 300), wrong())
    assert store.next_due("pacs", time.time()) == pytest.approx(time.time() + 300, abs=5)
    assert store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time() + 290) == []
    assert len(skewed.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=wrong() + 301)) == 1


def test_setting_a_nodes_clock_changes_no_lease(url: str, store: JobStore) -> None:
    """Between two questions to the database, too."""
    if url.startswith("sqlite"):
        pytest.skip("one machine, one clock")
    ahead = [0.0]
    node = JobStore.open(url, now=lambda: time.time() + ahead[0])
    store.take_in(NODE, [arrival()], [], [], time.time())
    assert node.next_due("nowhere", time.time()) is None  # it has asked
    store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time())
    ahead[0] = 7200.0
    assert node.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=time.time() + 7200) == []
    node.close()


def test_sqlites_clock_is_the_machines(url: str, store: JobStore) -> None:
    if not url.startswith("sqlite"):
        pytest.skip("a server has a clock of its own")
    clock = Clock(lambda: 5.0)
    with store._reading() as connection:
        assert clock.shift(connection) == 0.0

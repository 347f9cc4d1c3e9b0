"""The connection breaks at COMMIT and nobody knows whether it happened: doing it again has the effect of once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import AtOnce
from relaypacs.model import Checkpoint, State
from tests.contract.test_jobs.cutting import CuttingProxy
from tests.contract.test_jobs.postgres import Postgres
from tests.unit.jobs.made import NODE, arrival, settled

WHEN = pytest.mark.parametrize("when", ["before", "after"])
LEASE = 1000.0


@pytest.fixture
def url(debian_server: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    """The one database this is about; `store` and `sql` reach it directly."""
    yield f"{debian_server.url}/jobs"
    tables = "instance, delivery, association, checkpoint, tally, node, attempt, audit"
    debian_server.ask(
        "SET session_replication_role = replica", f"TRUNCATE {tables} RESTART IDENTITY CASCADE", database="jobs"
    )


@pytest.fixture
def network(debian_server: Postgres) -> Iterator[CuttingProxy]:
    """What lies between the store `far` and the server."""
    with CuttingProxy(debian_server.port) as proxy:
        yield proxy


@pytest.fixture
def far(store: JobStore, network: CuttingProxy) -> Iterator[JobStore]:
    """A store that sees the same table through the network."""
    far = JobStore.open(f"{network.url}/jobs")
    far.ping()
    yield far
    far.close()


def doubtful(network: CuttingProxy, when: str, do: Callable[[], object]) -> None:
    before = network.cuts
    network.cut(when)
    with pytest.raises(JobsError):
        do()
    assert network.cuts == before + 1


@WHEN
def test_intake(store: JobStore, far: JobStore, network: CuttingProxy, when: str) -> None:
    batch = [arrival("1.1", at_end=100), arrival("1.2", at_end=200)]
    doubtful(network, when, lambda: far.take_in(NODE, batch, [], [Checkpoint("g1", 200, 2, 7)], 1.0))
    assert store.ledger().received == (2 if when == "after" else 0)
    far.take_in(NODE, batch, [], [Checkpoint("g1", 200, 2, 7)], 1.0)
    book = store.ledger()
    assert (book.received, book.instances, book.duplicates, book.pending, book.imbalance) == (2, 2, 0, 2, 0)
    assert store.checkpoints(NODE) == {"g1": Checkpoint("g1", 200, 2, 7)}


@WHEN
def test_a_claim_is_found_again_long_before_its_lease_ends(
    store: JobStore, far: JobStore, network: CuttingProxy, when: str
) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(5)], [], [], 1.0)

    def claim(limit: int = 3) -> list[str]:
        claims = far.claim("pacs", node=NODE, limit=limit, lease_seconds=LEASE, now=2.0)
        assert far.settle(settled(claims), 3.0) == len(claims)
        return [one.sop_instance_uid for one in claims]

    doubtful(network, when, claim)
    leased = sum(row.deliveries[0].state is State.ACTIVE for row in store.trace("1.2.3"))
    assert leased == (3 if when == "after" else 0)
    assert claim() == ["1.0", "1.1", "1.2"]
    assert claim() == ["1.3", "1.4"]
    assert [row.deliveries[0].attempts for row in store.trace("1.2.3")] == [1] * 5


@WHEN
def test_what_intake_leased_is_found_by_the_next_claim(
    store: JobStore, far: JobStore, network: CuttingProxy, when: str
) -> None:
    batch, ends = [arrival(f"1.{number}", at_end=100) for number in range(3)], [Checkpoint("g1", 100, 3, 7)]

    def take_in() -> list[str]:
        taken = far.take_in(NODE, batch, [], ends, 1.0, at_once=AtOnce({"pacs": 2}, LEASE))
        return [one.sop_instance_uid for one in taken.claims]

    doubtful(network, when, take_in)
    assert take_in() == ([] if when == "after" else ["1.0", "1.1"])
    claims = [far.claim("pacs", node=NODE, limit=9, lease_seconds=LEASE, now=2.0) for _ in range(2)]
    found = [[one.sop_instance_uid for one in some] for some in claims]
    assert found == ([["1.0", "1.1"], ["1.2"]] if when == "after" else [["1.2"], []])
    assert far.settle(settled(claims[0]), 3.0) == len(claims[0])


def test_a_claim_in_doubt_twice(store: JobStore, far: JobStore, network: CuttingProxy) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)

    def claim() -> list[int]:
        return [one.token for one in far.claim("pacs", node=NODE, limit=3, lease_seconds=LEASE, now=2.0)]

    doubtful(network, "after", claim)
    doubtful(network, "after", claim)
    assert claim() == [1]
    assert claim() == []


def test_whose_lease_has_ended_is_left_to_the_others(store: JobStore, far: JobStore, network: CuttingProxy) -> None:
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    doubtful(network, "after", lambda: far.claim("pacs", node=NODE, limit=3, lease_seconds=LEASE, now=2.0))
    (other,) = store.claim("pacs", node=NODE, limit=3, lease_seconds=LEASE, now=2.0 + LEASE)
    assert far.claim("pacs", node=NODE, limit=3, lease_seconds=LEASE, now=3.0) == []
    assert store.settle(settled([other]), 4.0) == 1


@WHEN
def test_settling(store: JobStore, far: JobStore, network: CuttingProxy, when: str) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    claims = far.claim("pacs", node=NODE, limit=1, lease_seconds=LEASE, now=2.0)
    doubtful(network, when, lambda: far.settle(settled(claims), 3.0))
    assert far.settle(settled(claims), 3.0) == (0 if when == "after" else 1)
    (delivery,) = store.trace("1.2.3")[0].deliveries
    assert (delivery.state, delivery.attempts) == (State.DELIVERED, 1)


@WHEN
def test_giving_back(store: JobStore, far: JobStore, network: CuttingProxy, when: str) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    claims = far.claim("pacs", node=NODE, limit=1, lease_seconds=LEASE, now=2.0)
    doubtful(network, when, lambda: far.give_back(claims))
    far.give_back(claims)
    assert len(far.claim("pacs", node=NODE, limit=1, lease_seconds=LEASE, now=3.0)) == 1


@WHEN
def test_staging_and_purging(store: JobStore, far: JobStore, network: CuttingProxy, when: str) -> None:
    """Whichever of the four steps is in doubt: a file that may be there is always named by its row."""
    store.take_in(NODE, [arrival()], [], [], 1.0)
    far.settle(settled(far.claim("pacs", node=NODE, limit=1, lease_seconds=LEASE, now=2.0)), 3.0)
    keys = [(1, "key")]
    doubtful(network, when, lambda: far.will_stage(keys, node=NODE))
    if when == "after":  # nothing was put; it is deleted all the same, and staged then
        assert far.purgeable(NODE, settled_before=None, limit=9) == keys
        far.purged(keys)
    assert far.will_stage(keys, node=NODE) == {1}
    doubtful(network, when, lambda: far.staged(keys, 4.0))
    assert far.purgeable(NODE, settled_before=None, limit=9) == ([] if when == "after" else keys)
    far.staged(keys, 4.0)
    assert store.trace("1.2.3")[0].staged
    doubtful(network, when, lambda: far.purgeable(NODE, settled_before=10.0, limit=9))
    assert far.purgeable(NODE, settled_before=10.0, limit=9) == keys
    doubtful(network, when, lambda: far.purged(keys))
    far.purged(keys)
    assert far.purgeable(NODE, settled_before=10.0, limit=9) == []

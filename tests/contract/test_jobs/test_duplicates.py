"""The same object again, and other bytes under the same UID (DESIGN section 2)."""

from __future__ import annotations

import pytest

from relaypacs.jobs.marks import Mark
from relaypacs.jobs.store import JobStore
from relaypacs.model import Deferred, Failed, Outcome, Routed, Scope, State
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, end, settled

LATER = Deferred("timeout", Scope.INSTANCE)


def claim_all(store: JobStore, destination: str = "pacs", now: float = 1000.0) -> list[str]:
    return [one.sop_instance_uid for one in store.claim(destination, node=NODE, limit=1000, lease_seconds=60, now=now)]


def bring_to(store: JobStore, outcome: Outcome, retry_at: float | None = None) -> None:
    batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=200.0)
    assert store.settle(settled(batch, outcome, retry_at=retry_at), 200.0) == len(batch) == 1


def states(store: JobStore) -> list[tuple[str, State]]:
    return [(one.destination, one.state) for row in store.trace("1.2.3") for one in row.deliveries]


def test_twice_in_one_batch(store: JobStore) -> None:
    taken = store.take_in(NODE, [arrival(), arrival(), arrival(to=("pacs", "cloud"))], [], [], 1.0)
    assert (taken.instances, taken.duplicates, taken.queued) == (1, 2, {"pacs": 1, "cloud": 1})
    assert states(store) == [("pacs", State.QUEUED), ("cloud", State.QUEUED)]
    ledger = store.ledger()
    assert (ledger.received, ledger.instances, ledger.duplicates, ledger.routed) == (3, 1, 2, 2)
    assert ledger.imbalance == 0


@pytest.mark.parametrize("waiting", ["queued", "active", "deferred"])
@pytest.mark.parametrize("resend", ["requeue", "suppress"])
def test_nothing_is_added_while_the_delivery_is_pending(store: JobStore, waiting: str, resend: str) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    if waiting == "active":
        store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=200.0)
    elif waiting == "deferred":
        bring_to(store, LATER, retry_at=900.0)
    taken = store.take_in(NODE, [arrival(resend=resend)], [], [], 300.0)
    assert (taken.duplicates, taken.queued) == (1, {})
    assert states(store) == [("pacs", State(waiting))]
    assert store.ledger().imbalance == 0


@pytest.mark.parametrize(("outcome", "left"), [(SENT, State.DELIVERED), (REFUSED, State.DISCARDED)])
def test_after_its_end_it_is_queued_again(store: JobStore, outcome: Outcome, left: State) -> None:
    store.take_in(NODE, [arrival(association="a1")], [end("a1", objects=1)], [], 1.0)
    bring_to(store, outcome)
    taken = store.take_in(NODE, [arrival(association="a2")], [end("a2", objects=1)], [], 300.0)
    assert (taken.duplicates, taken.queued) == (1, {"pacs": 1})
    # A dead letter is answered by the new delivery: it is no longer one that waits for a person.
    assert states(store) == [("pacs", left), ("pacs", State.QUEUED)]
    assert claim_all(store) == ["1.2.3.1"]
    second = store.ledger(association="a2")
    assert (second.received, second.instances, second.duplicates, second.routed, second.pending) == (1, 0, 1, 1, 1)
    assert [store.ledger(association=one).imbalance for one in ("a1", "a2")] == [0, 0]
    assert store.ledger(study="1.2.3").imbalance == store.ledger().imbalance == 0


@pytest.mark.parametrize(("outcome", "left"), [(SENT, State.DELIVERED), (REFUSED, State.FAILED)])
def test_suppress_queues_nothing_again_but_a_new_destination(store: JobStore, outcome: Outcome, left: State) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    bring_to(store, outcome)
    taken = store.take_in(NODE, [arrival(resend="suppress", to=("pacs", "cloud"))], [], [], 300.0)
    assert taken.queued == {"cloud": 1}
    assert states(store) == [("pacs", left), ("cloud", State.QUEUED)]
    assert store.ledger().imbalance == 0


def test_it_brings_its_bytes_if_they_were_gone(store: JobStore) -> None:
    store.take_in(NODE, [arrival(generation="g1")], [], [], 1.0)
    bring_to(store, SENT)
    assert store.segment_needed(NODE, "g1", keep=False) is False
    store.forget_segment(NODE, "g1")
    store.take_in(NODE, [arrival(generation="g2")], [], [], 300.0)
    (claim,) = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=301.0)
    assert claim.location.generation == "g2"


def test_it_does_not_replace_bytes_that_are_there(store: JobStore) -> None:
    store.take_in(NODE, [arrival(generation="g1")], [], [], 1.0)
    store.take_in(NODE, [arrival(generation="g2")], [], [], 2.0)
    (claim,) = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=3.0)
    assert claim.location.generation == "g1"


def test_it_is_routed_when_nobody_wanted_it_before(store: JobStore) -> None:
    store.take_in(NODE, [arrival(verdict=Routed.UNROUTED)], [], [], 1.0)
    store.take_in(NODE, [arrival(rule="new")], [], [], 2.0)
    (row,) = store.trace("1.2.3")
    assert (row.verdict, row.rule, store.marks.counts()[Mark.UNROUTED]) == (Routed.ROUTED, "new", 0)
    store.take_in(NODE, [arrival(verdict=Routed.UNROUTED)], [], [], 3.0)
    assert store.trace("1.2.3")[0].verdict is Routed.ROUTED
    ledger = store.ledger()
    assert (ledger.received, ledger.unrouted, ledger.routed, ledger.imbalance) == (3, 2, 1, 0)


def test_its_study_stays_that_of_the_instance(store: JobStore) -> None:
    store.take_in(NODE, [arrival(study="1.2.3")], [], [], 1.0)
    bring_to(store, SENT)
    store.take_in(NODE, [arrival(study="9.9")], [], [], 300.0)
    assert store.ledger(study="1.2.3").imbalance == store.ledger(study="9.9").imbalance == 0
    assert store.ledger(study="1.2.3").received == 2


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize(
    ("policy", "newer_from", "newer_state"),
    [
        ("forward-both", "CT1", State.QUEUED),
        ("forward-both", "CT2", State.QUEUED),
        ("hold-newer", "CT1", State.HELD),
        ("hold-newer", "CT2", State.HELD),
        ("hold-if-other-source", "CT1", State.QUEUED),
        ("hold-if-other-source", "CT2", State.HELD),
    ],
)
def test_other_bytes_under_the_same_uid(
    store: JobStore, together: bool, policy: str, newer_from: str, newer_state: State
) -> None:
    older = arrival(content="one", association="a1", calling_ae="CT1", conflict=policy)
    newer = arrival(content="two", association="a2", calling_ae=newer_from, conflict=policy)
    if together:
        taken = store.take_in(NODE, [older, newer], [], [], 1.0)
    else:
        store.take_in(NODE, [older], [], [], 1.0)
        taken = store.take_in(NODE, [newer], [], [], 2.0)
    assert (taken.conflicts, taken.held) == (1, int(newer_state is State.HELD))
    rows = store.trace("1.2.3.1")
    assert [row.conflict for row in rows] == [True, True]
    assert [row.deliveries[0].state for row in rows] == [State.QUEUED, newer_state]
    assert store.marks.counts()[Mark.CONFLICT] == 2
    ledger = store.ledger()
    assert (ledger.instances, ledger.held, ledger.imbalance) == (2, int(newer_state is State.HELD), 0)


def test_the_first_version_sent_again_is_not_held(store: JobStore) -> None:
    first, second = arrival(content="one", conflict="hold-newer"), arrival(content="two", conflict="hold-newer")
    store.take_in(NODE, [first], [], [], 1.0)
    bring_to(store, SENT)
    store.take_in(NODE, [second], [], [], 300.0)
    assert store.take_in(NODE, [first], [], [], 301.0).queued == {"pacs": 1}
    assert store.take_in(NODE, [second], [], [], 302.0).held == 0  # it is held already
    assert claim_all(store) == ["1.2.3.1"]


def test_a_failed_instance_of_another_destination_is_not_superseded(store: JobStore) -> None:
    store.take_in(NODE, [arrival(to=("pacs", "cloud"))], [], [], 1.0)
    for destination in ("pacs", "cloud"):
        batch = store.claim(destination, node=NODE, limit=10, lease_seconds=60, now=200.0)
        store.settle(settled(batch, Failed("no")), 200.0)
    store.take_in(NODE, [arrival(to=("pacs",))], [], [], 300.0)
    assert states(store) == [("pacs", State.DISCARDED), ("cloud", State.FAILED), ("pacs", State.QUEUED)]

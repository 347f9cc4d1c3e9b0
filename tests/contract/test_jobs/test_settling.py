"""How a delivery ends, and what is remembered of each attempt."""

from __future__ import annotations

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.model import Deferred, Delivered, Failed, Outcome, Scope, Settlement, State
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, arrival, settled

REFUSED_SITE = Deferred("refused", Scope.SITE)
FULL = Deferred("out of resources", Scope.INSTANCE, 0xA700)
BAD = Failed("cannot understand", 0xC000)


@pytest.mark.parametrize(
    ("outcome", "retry_at", "state", "scope"),
    [
        (Delivered(), None, State.DELIVERED, ""),
        (Delivered(0xB000, True), None, State.DELIVERED, ""),
        (REFUSED_SITE, 900.0, State.DEFERRED, "site"),
        (FULL, 900.0, State.DEFERRED, "instance"),
        (FULL, None, State.FAILED, "instance"),
        (BAD, None, State.FAILED, ""),
    ],
)
def test_an_outcome_becomes_a_state_and_an_attempt(
    store: JobStore, sql: Sql, *, outcome: Outcome, retry_at: float | None, state: State, scope: str
) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2.0)
    assert store.settle(settled(batch, outcome, at=5.0, retry_at=retry_at), 6.0) == 1
    reason = getattr(outcome, "reason", "")
    (one,) = store.trace("1.2.3")[0].deliveries
    assert (one.state, one.reason, one.status, one.attempts) == (state, reason, outcome.status, 1)
    assert one.warning is getattr(outcome, "warning", False)
    assert one.next_attempt_at == retry_at
    assert one.settled_at == (None if state is State.DEFERRED else 6.0)
    assert sql("SELECT outcome, scope, status, reason, number, started_at, finished_at FROM attempt") == [
        (state, scope, outcome.status, reason, 1, 4.0, 5.0)
    ]


def test_what_could_not_be_tried_waits_and_no_attempt_is_counted(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(3)], [], [], 1.0)
    away = Deferred("waits for its bytes", Scope.NODE)
    now = 2.0
    for _ in range(5):
        batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=now)
        assert [one.attempts for one in batch] == [0, 0, 0]
        assert store.settle(settled(batch[:1], away, at=now, retry_at=now + 1), now) == 1
        assert store.settle(settled(batch[1:], away, at=now, retry_at=now + 2), now) == 2
        rows = [one for row in store.trace("1.2.3") for one in row.deliveries]
        assert {(one.state, one.attempts, one.reason) for one in rows} == {(State.DEFERRED, 0, away.reason)}
        assert [one.next_attempt_at for one in rows] == [now + 1, now + 2, now + 2]
        now += 2
    assert sql("SELECT count(*) FROM attempt") == [(0,)]
    batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=now)
    assert store.settle(settled(batch, FULL, at=now, retry_at=900.0), now) == 3
    assert {one.attempts for row in store.trace("1.2.3") for one in row.deliveries} == {1}


def test_a_batch_is_settled_each_by_its_own_outcome(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(4)], [], [], 1.0)
    one, two, three, four = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2.0)
    store.give_back([four])
    took_effect = store.settle(
        [
            Settlement(one, Delivered(), 3.0, 4.0),
            Settlement(two, Failed("no", 0x0122), 3.0, 4.0),
            Settlement(three, Deferred("later", Scope.INSTANCE), 3.0, 4.0, 900.0),
            Settlement(three, Delivered(), 3.0, 4.0),
            Settlement(four, Delivered(), 3.0, 4.0),
        ],
        5.0,
    )
    assert took_effect == 3
    assert [row.deliveries[0].state for row in store.trace("1.2.3")] == [
        State.DELIVERED,
        State.FAILED,
        State.DEFERRED,
        State.QUEUED,
    ]
    assert sql("SELECT count(*) FROM attempt") == [(3,)]


def test_attempts_are_numbered(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    for now in (10.0, 20.0):
        batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=now)
        store.settle(settled(batch, Deferred("later", Scope.SITE), retry_at=now + 10.0), now)
    batch = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=30.0)
    assert batch[0].attempts == 2
    store.settle(settled(batch), 31.0)
    assert sql("SELECT number, outcome FROM attempt ORDER BY id") == [
        (1, "deferred"),
        (2, "deferred"),
        (3, "delivered"),
    ]
    (one,) = store.trace("1.2.3")[0].deliveries
    assert (one.attempts, one.reason, one.state) == (3, "", State.DELIVERED)

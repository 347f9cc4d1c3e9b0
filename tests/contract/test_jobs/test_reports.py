"""What people and metrics see."""

from __future__ import annotations

import pytest

from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import QueueRow
from relaypacs.model import Deferred, Failed, Scope, State
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, settled


def test_the_queue_of_each_destination(store: JobStore) -> None:
    assert store.queue(1.0) == []
    store.take_in(NODE, [arrival(f"1.{number}", to=("pacs", "cloud")) for number in range(5)], [], [], 100.0)
    first, second, third, _ = store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=110.0)
    store.settle(settled([first], SENT) + settled([second], REFUSED), 111.0)
    store.settle(settled([third], Deferred("later", Scope.SITE), retry_at=500.0), 111.0)
    store.take_in(NODE, [arrival("1.9", to=("cloud",))], [], [], 120.0)
    assert store.queue(150.0) == [
        QueueRow("cloud", {State.QUEUED: 6}, 50.0),
        QueueRow("pacs", {State.QUEUED: 1, State.ACTIVE: 1, State.DEFERRED: 1, State.FAILED: 1}, 50.0),
    ]


def test_a_destination_with_dead_letters_alone_has_no_age(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [], [], 100.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=110.0), REFUSED), 111.0)
    assert store.queue(150.0) == [QueueRow("pacs", {State.FAILED: 1}, None)]


def test_a_dead_letter_is_told_of_where_it_is_asked_for(store: JobStore) -> None:
    for number, study in enumerate(("1.1", "1.2", "1.3")):
        store.take_in(NODE, [arrival(f"{study}.1", study=study)], [], [], 100.0 + number)
    first, second, third = store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=110.0)
    store.settle(settled([second], Failed("no context for it")) + settled([first], REFUSED), 111.0)
    store.settle(settled([third], Deferred("later", Scope.SITE), retry_at=500.0), 111.0)
    (row,) = store.queue(150.0, next_attempts=True)
    assert (row.failed_reason, row.failed_study, row.reason) == ("no context for it", "1.2", "later")


@pytest.mark.parametrize("term", ["1.2.3", "1.2.3.9", "1.2.3.1", "ACC-1.2.3", "PID-1.2.3"])
def test_an_object_is_found_by_what_people_have(store: JobStore, term: str) -> None:
    store.take_in(NODE, [arrival("1.2.3.1"), arrival("4.5.6.1", study="4.5.6")], [], [], 1.0)
    assert [row.sop_instance_uid for row in store.trace(term)] == ["1.2.3.1"]


@pytest.mark.parametrize("term", ["", "1.2", "1.2.3%", "' OR 1=1 --", "PID", "1.2.3\0"])
def test_and_by_nothing_else(store: JobStore, term: str) -> None:
    store.take_in(NODE, [arrival("1.2.3.1"), arrival("4.5", study="")], [], [], 1.0)
    assert store.trace(term) == []


def test_a_trace_is_bounded(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(5)], [], [], 1.0)
    assert [row.sop_instance_uid for row in store.trace("1.2.3", limit=2)] == ["1.0", "1.1"]


def test_a_trace_says_when_it_is_tried_next(store: JobStore) -> None:
    store.take_in(NODE, [arrival(to=("pacs", "cloud"))], [], [], 1.0)
    batch = store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=110.0)
    store.claim("cloud", node=NODE, limit=4, lease_seconds=60, now=110.0)
    store.settle(settled(batch, Deferred("A700 out of resources", Scope.INSTANCE, 0xA700), retry_at=500.0), 111.0)
    pacs, cloud = store.trace("1.2.3")[0].deliveries
    assert (pacs.next_attempt_at, pacs.reason, pacs.status) == (500.0, "A700 out of resources", 0xA700)
    assert (cloud.state, cloud.next_attempt_at) == (State.ACTIVE, None)


def test_no_column_could_hold_a_patients_name(store: JobStore, sql: Sql, url: str) -> None:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    found = inspect(engine)
    columns = [column["name"] for table in found.get_table_names() for column in found.get_columns(table)]
    engine.dispose()
    assert len(columns) > 50
    assert not [name for name in columns if "name" in name]

"""How rows get in: numbered in their order, and never with a number that a row had before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import StatementError

from relaypacs.jobs.dialect import open_engines
from relaypacs.jobs.inserts import insert_numbered, insert_rows, upsert
from relaypacs.jobs.schema import association, instance
from relaypacs.jobs.store import JobStore
from relaypacs.model import Routed

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def writing(url: str, store: JobStore) -> Iterator[Connection]:
    """A transaction on the migrated database, with an association to insert instances of."""
    _, writer = open_engines(url)
    with writer.begin() as connection:
        upsert(connection, association, [{"association_id": "a1", "calling_ae": "CT1"}])
        yield connection
    writer.dispose()


def rows(*uids: str) -> list[dict[str, object]]:
    common = {"association_id": "a1", "digest": "d", "received_at": 1.0, "verdict": Routed.ROUTED, "node": "n"}
    return [{"sop_instance_uid": uid, **common} for uid in uids]


def stored(connection: Connection) -> dict[int, str]:
    return {row.id: row.sop_instance_uid for row in connection.execute(select(instance))}


def test_numbers_come_in_the_order_of_the_rows(writing: Connection) -> None:
    uids = [f"1.2.{number * 7919 % 1009}" for number in range(1009)]
    ids = insert_numbered(writing, instance, rows(*uids))
    assert ids == sorted(ids)
    assert stored(writing) == dict(zip(ids, uids, strict=True))


def test_a_number_is_not_given_again(writing: Connection) -> None:
    before = insert_numbered(writing, instance, rows("1.1", "1.2", "1.3"))
    writing.execute(delete(instance).where(instance.c.id.in_(before[1:])))
    after = insert_numbered(writing, instance, rows("1.4", "1.5"))
    assert min(after) > max(before)
    insert_rows(writing, instance, rows("1.6"))
    assert stored(writing) == {before[0]: "1.1", after[0]: "1.4", after[1]: "1.5", max(after) + 1: "1.6"}


def test_a_file_whose_list_of_sequences_a_tool_has_left_out_takes_rows(writing: Connection) -> None:
    (before,) = insert_numbered(writing, instance, rows("1.1"))
    if writing.dialect.name == "sqlite":
        writing.exec_driver_sql("DELETE FROM sqlite_sequence")
    assert insert_numbered(writing, instance, rows("1.2")) == [before + 1]


def test_rows_of_one_call_have_the_same_columns(writing: Connection) -> None:
    first, second = rows("1.1", "1.2")
    with pytest.raises((KeyError, StatementError)):
        insert_numbered(writing, instance, [first, {name: one for name, one in second.items() if name != "node"}])


def test_nothing_to_insert(writing: Connection) -> None:
    assert insert_numbered(writing, instance, []) == []
    insert_rows(writing, instance, [])
    assert stored(writing) == {}

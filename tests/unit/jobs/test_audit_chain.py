"""The chain of the audit trail: whatever is done to a row behind the triggers, the first one concerned is named."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from relaypacs.jobs.audit_gather import worth_telling
from relaypacs.jobs.audit_rows import Entry, link
from relaypacs.jobs.store import JobStore

ROW = {"at": 1.5, "kind": "hold", "body": "{}", "node": "n", "actor": "a", "study": "1.2", "outcome": 0}


@pytest.mark.parametrize(
    ("forgery", "first"),
    [
        ("UPDATE audit SET actor = 'somebody' WHERE id = 3", 3),
        ("UPDATE audit SET at = at + 1 WHERE id = 3", 3),
        ("UPDATE audit SET body = '{}' WHERE id = 3", 3),
        ("UPDATE audit SET chain = '' WHERE id = 3", 3),
        ("DELETE FROM audit WHERE id = 2", 3),
        ("DELETE FROM audit WHERE id = 1", 2),
        ("INSERT INTO audit (at, kind, body) VALUES (1.0, 'start', '{}')", 6),
        ("UPDATE audit SET id = 9 WHERE id = 2", 3),
        ("UPDATE audit SET chain = '' WHERE id = 1", 2),
    ],
)
def test_a_forgery_is_found(tmp_path: Path, forgery: str, first: int) -> None:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.migrate()
    store.audit.add([Entry(float(number), "hold", "n", "ops", body={"n": number}) for number in range(5)])
    checked = store.audit.check()
    assert (checked.rows, checked.broken_at, checked.last, len(checked.head)) == (5, None, 5, 64)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute(forgery)
    assert store.audit.check().broken_at == first
    store.close()


@pytest.mark.parametrize("part", ROW)
def test_every_part_of_a_row_is_in_its_hash(part: str) -> None:
    other = {"at": 1.6, "outcome": 4}.get(part, "x")
    assert link("before", ROW) != link("before", {**ROW, part: other})
    assert link("before", ROW) != link("other", ROW)
    assert link("before", ROW) == link("before", dict(ROW))


def test_rows_of_before_the_chain_are_counted_apart(tmp_path: Path) -> None:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.migrate()
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("INSERT INTO audit (at, kind, body) VALUES (1.0, 'hold', '{}')")
    store.audit.add([Entry(2.0, "hold"), Entry(3.0, "hold")])
    checked = store.audit.check()
    assert (checked.rows, checked.unchained, checked.broken_at) == (2, 1, None)
    store.close()


@pytest.mark.parametrize(
    ("tries", "told", "quiet_seconds", "worth"),
    [(1, 0, 0, True), (1, 1, 9999, False), (3, 2, 0, False), (4, 2, 0, True), (3, 2, 600, True), (3, 2, 599, False)],
)
def test_when_a_refusal_is_told_again(tries: int, told: int, quiet_seconds: float, worth: bool) -> None:
    assert worth_telling(tries, told, 1000.0, 1000.0 + quiet_seconds) is worth

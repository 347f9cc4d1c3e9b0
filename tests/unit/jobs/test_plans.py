"""No query that runs while objects flow reads a whole table: SQLite's plan of every statement, on a filled table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from relaypacs.jobs.states import Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Selection
from relaypacs.model import Checkpoint, Deferred, Scope, State
from tests.unit.jobs.made import NODE, SENT, arrival, asked, discarded, end, released, resent, settled


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.migrate()
    many = [arrival(f"{study}.{n}", study=str(study), to=("pacs", "cloud")) for study in range(20) for n in range(20)]
    store.take_in(NODE, many, [end(objects=400)], [], 1.0)
    batch = store.claim("pacs", node=NODE, limit=300, lease_seconds=1e9, now=2.0)
    store.settle(settled(batch[:100]), 3.0)
    store.settle(settled(batch[100:200], Deferred("x", Scope.SITE), retry_at=1e9), 3.0)
    yield store
    store.close()


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """Every SELECT, UPDATE, INSERT and DELETE that any engine runs meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
            seen.append((statement, parameters[0] if many and isinstance(parameters, list) else parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def plans(tmp_path: Path, seen: list[tuple[str, Any]]) -> list[str]:
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        return [
            f"{row[3]}   <- {statement}"
            for statement, parameters in seen
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


def put(store: JobStore) -> None:
    """What the sweep does around copying files to staging."""
    keys = [(1, "a"), (2, "b")]
    store.will_stage(keys, node=NODE)
    store.staged(keys, 7.0)


HOT: dict[str, Callable[[JobStore], object]] = {
    "claim": lambda store: store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2e9),
    "next_due": lambda store: store.next_due("pacs", 4.0, node=NODE),
    "next_due of any node": lambda store: store.next_due("nowhere", 4.0),
    "settle": lambda store: store.settle(
        settled(store.claim("cloud", node=NODE, limit=10, lease_seconds=60, now=5.0), SENT), 5.0
    ),
    "renew": lambda store: store.renew(
        store.claim("cloud", node=NODE, limit=10, lease_seconds=60, now=5.0), lease_seconds=60, now=6.0
    ),
    "give_back": lambda store: store.give_back(store.claim("cloud", node=NODE, limit=10, lease_seconds=60, now=5.0)),
    "take_in": lambda store: store.take_in(
        NODE,
        [
            arrival("0.1", study="0"),
            arrival("19.19", study="19", content="other"),
            arrival("new", study="3"),
            arrival("0.2", study="0", to=("third",)),
        ],
        [end(objects=1)],
        [Checkpoint("g1", 1, 1, 1)],
        6.0,
    ),
    "drain": lambda store: store.drain(NODE, 6.0),
    "checkpoints": lambda store: store.checkpoints(NODE),
    "to_stage": lambda store: store.to_stage(NODE, received_before=1e9, keep=False, limit=10),
    "to_stage, kept": lambda store: store.to_stage(NODE, received_before=1e9, keep=True, limit=10),
    "staged": put,
    "segment_needed": lambda store: store.segment_needed(NODE, "g1", keep=False),
    "segment_needed no more": lambda store: store.segment_needed(NODE, "g2", keep=False),
    "forget_segment": lambda store: store.forget_segment(NODE, "g1"),
    "purgeable": lambda store: (
        put(store),
        store.purgeable(NODE, settled_before=1e9, limit=10),
    ),
    "forget": lambda store: (
        store.forget_segment(NODE, "g1"),
        store.forget(settled_before=1e9, limit=10),
    ),
    "purged": lambda store: store.purged([(1, "a"), (2, "b")]),
    "compare with staging": lambda store: store.restoring.unknown(["a", "b"]),
    "restore": lambda store: store.restoring.restore(
        NODE, [replace(arrival("0.1", study="0"), staged_key="a"), replace(arrival("x"), staged_key="b")], 7.0
    ),
    "segment_needed, as told": lambda store: store.segment_needed(NODE, "g2", keep=False, end=5),
    "trace": lambda store: store.trace("3"),
    "resend": lambda store: resent(store, "3", "pacs", 8.0),
    "release": lambda store: released(store, "3", "pacs", 8.0),
    "discard": lambda store: discarded(store, "3", "pacs", 8.0),
    "hold": lambda store: asked(store, Verb.HOLD, Selection("pacs", states=frozenset({State.DEFERRED})), 8.0),
    "retry of a caller": lambda store: asked(store, Verb.RETRY, Selection(calling_ae="CT1"), 8.0),
    "resend of what failed of a caller": lambda store: asked(
        store, Verb.RESEND, Selection("pacs", calling_ae="CT1", states=frozenset({State.FAILED})), 8.0
    ),
    "ledger of an association": lambda store: store.ledger(association="assoc-1"),
    "ledger of a study": lambda store: store.ledger(study="3"),
}


@pytest.mark.parametrize("name", HOT)
def test_no_table_is_read_from_end_to_end(store: JobStore, tmp_path: Path, name: str) -> None:
    with statements() as seen:
        HOT[name](store)
    assert seen
    found = plans(tmp_path, seen)
    scans = [plan for plan in found if plan.startswith("SCAN") and "SCAN CONSTANT ROW" not in plan]
    if "caller" in name:  # associations, and what is owed, are few next to all that was ever received
        few = ("SCAN association", "SCAN delivery USING INDEX ix_delivery_owed")
        scans = [plan for plan in scans if not plan.startswith(few)]
    # Files being put or deleted are at most a batch.
    few = ("SCAN (subquery", "SCAN instance USING INDEX ix_instance_purging", "SCAN sqlite_sequence")
    assert [plan for plan in scans if not plan.startswith(few)] == []


def test_a_claim_is_in_the_indexs_order(store: JobStore, tmp_path: Path) -> None:
    with statements() as seen:
        HOT["claim"](store)
    assert [plan for plan in plans(tmp_path, seen) if "TEMP B-TREE" in plan] == []


@pytest.mark.parametrize("name", ["queue", "next attempts", "counts", "ledger"])
def test_metrics_read_indexes_only(store: JobStore, tmp_path: Path, name: str) -> None:
    with statements() as seen:
        {
            "queue": lambda: store.queue(1.0),
            "next attempts": lambda: store.queue(1.0, next_attempts=True),
            "counts": store.marks.counts,
            "ledger": store.ledger,
        }[name]()
    found = plans(tmp_path, seen)
    assert seen
    # Tallies have a row per association and study, and an association one: they are small next to the objects.
    of_objects = [
        plan
        for plan in found
        if plan.startswith("SCAN") and not plan.startswith(("SCAN tally", "SCAN assoc", "SCAN forgotten"))
    ]
    assert [plan for plan in of_objects if "COVERING INDEX" not in plan] == []

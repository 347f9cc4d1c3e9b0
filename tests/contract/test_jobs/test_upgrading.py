"""A table that has rows is brought up to date from every revision there ever was, and nothing in it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from relaypacs.jobs.audit_rows import Wanted
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.migrations import REVISIONS
from relaypacs.jobs.store import JobStore
from relaypacs.model import State
from tests.contract.test_jobs.postgres import Postgres
from tests.unit.jobs.made import NODE, arrival, settled

ROWS = (
    "INSERT INTO association (association_id, calling_ae, objects, started_at, ended_at)"
    " VALUES ('one', 'CT1', 4, 1, 2)",
    """INSERT INTO instance (id, association_id, sop_instance_uid, digest, study_instance_uid, received_at, verdict,
    node, generation, patient_id) VALUES (1, 'one', '1.1', 'd1', '9.9', 1, 'routed', 'node-a', 'g1', 'PID'),
    (2, 'one', '1.2', 'd2', '9.9', 1, 'routed', 'node-a', 'g1', ''),
    (3, 'one', '1.3', 'd3', '9.9', 1, 'unrouted', 'node-a', NULL, '')""",
    """INSERT INTO delivery (id, instance_id, association_id, study_instance_uid, destination, home, state, study_at,
    queued_at, ready, due_at, settled_at, token, attempts) VALUES
    (1, 1, 'one', '9.9', 'pacs', 'node-a', 'delivered', 1, 1, false, NULL, 3, 1, 1),
    (2, 2, 'one', '9.9', 'pacs', 'node-a', 'deferred', 1, 1, false, 50, NULL, 2, 2),
    (3, 2, 'one', '9.9', 'cloud', 'node-a', 'queued', 1, 1, true, NULL, NULL, 0, 0)""",
    """INSERT INTO attempt (id, delivery_id, number, started_at, finished_at, outcome) VALUES
    (1, 1, 1, 1, 2, 'delivered'), (2, 2, 1, 1, 2, 'deferred'), (7, 2, 2, 3, 4, 'deferred')""",
    "INSERT INTO tally (association_id, study_instance_uid, received, duplicates, unrouted, routed)"
    " VALUES ('one', '9.9', 4, 1, 1, 3)",
    "INSERT INTO checkpoint (node, generation, \"end\", number, chain) VALUES ('node-a', 'g1', 100, 3, 7)",
)
LINE = 'INSERT INTO audit (at, kind, body) VALUES (5, \'hold\', \'{"by": "alice", "study": "9.9"}\')'
SEQUENCES = ("instance", "delivery", "attempt")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without a schema."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.sqlite"
        return
    server: Postgres = request.getfixturevalue("debian_server")
    yield server.create_database("upgrading")
    server.ask("DROP DATABASE upgrading WITH (FORCE)")


def make(url: str, revision: str, *, also: tuple[str, ...] = ()) -> None:
    """The schema as it was at that revision, with rows."""
    engine = create_engine(url)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "relaypacs.jobs:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in (*ROWS, *also, *([LINE] if revision < "0008" else [])):
            connection.execute(text(statement))
        if connection.dialect.name == "postgresql":
            for table in SEQUENCES:
                connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 100)"))
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_rows_of_every_revision_are_there_and_go_on(empty: str, revision: str) -> None:
    make(empty, revision)
    store = JobStore.open(empty)
    store.migrate()
    store.check_schema()
    book = store.ledger()
    assert (book.received, book.instances, book.duplicates, book.unrouted) == (4, 3, 1, 1)
    assert (book.routed, book.delivered, book.pending, book.imbalance) == (3, 1, 2, 0)
    assert store.checkpoints(NODE)["g1"].end == 100
    assert store.join(NODE, "folder", 9.0).leases_ended == 0
    states = {(one.destination, one.state) for row in store.trace("9.9") for one in row.deliveries}
    assert states == {("pacs", State.DELIVERED), ("pacs", State.DEFERRED), ("cloud", State.QUEUED)}
    taken = store.take_in(NODE, [arrival("1.9"), arrival("1.1")], [], [], 10.0)
    assert (taken.instances, taken.conflicts) == (2, 1)
    claims = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=60.0)
    assert [one.attempts for one in claims] == [2, 0, 0]
    assert store.settle(settled(claims), 61.0) == 3
    assert store.ledger().imbalance == 0
    if revision < "0008":
        (line,) = store.audit.find(Wanted(), limit=9)
        assert (line.entry.kind, line.entry.actor, line.entry.study) == ("hold", "alice", "9.9")
    store.close()


def test_what_two_nodes_had_received_at_once_is_flagged(empty: str) -> None:
    other = """INSERT INTO instance (id, association_id, sop_instance_uid, digest, received_at, verdict, node) VALUES
    (4, 'one', '1.1', 'other', 1, 'dropped', 'node-b')"""
    make(empty, "0010", also=(other,))
    store = JobStore.open(empty)
    store.migrate()
    assert [row.conflict for row in store.trace("1.1")] == [True, True]
    assert store.marks.counts()[Mark.CONFLICT] == 2
    store.close()


def test_ids_of_attempts_go_on_behind_those_that_are_gone(empty: str) -> None:
    """The audit trail has looked through them."""
    make(empty, "0010", also=("INSERT INTO audit_mark (mark, position) VALUES ('attempts', 90)",))
    store = JobStore.open(empty)
    store.migrate()
    store.settle(settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=60.0)), 61.0)
    with create_engine(empty).connect() as connection:
        assert connection.scalar(text("SELECT max(id) FROM attempt")) > 90
    store.close()

"""The audit trail on every database: told once from rows that are there, never changed, deleted in its time."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from relaypacs.jobs import audit_gather
from relaypacs.jobs.audit_rows import Entry, Wanted
from relaypacs.jobs.states import Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import AssociationEnd, Selection
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import CT, NODE, REFUSED, SENT, arrival, end, settled

DAY = 86400.0
REFUSAL = replace(
    end("refused-1", objects=0), outcome="rejected", word="calling-ae", reason="no [[caller]]", tries=1, admitted=False
)


def told(store: JobStore, *kinds: str) -> list[Entry]:
    """The trail's rows of these kinds, the first first."""
    return [row.entry for row in reversed(store.audit.find(Wanted(kinds=frozenset(kinds)), limit=1000))]


def gathered(store: JobStore, now: float, **options: float) -> None:
    while store.audit.gather(now, **options):
        pass


@pytest.fixture(autouse=True)
def of_a_node(store: JobStore) -> None:
    store.audit.node = NODE


def test_what_was_received_is_told_per_association_and_study(store: JobStore) -> None:
    objects = [arrival(f"1.{number}") for number in range(3)] + [arrival("2.1", study="9.9")]
    store.take_in(NODE, objects, [], [], 1.0)
    gathered(store, 100.0)
    assert told(store) == []  # the association is open

    store.take_in(NODE, [], [end(objects=4)], [], 2.0)
    gathered(store, 300.0)
    gathered(store, 301.0)
    first, second = told(store)
    assert (first.kind, first.node, first.actor, first.study, first.outcome) == ("received", NODE, "CT1", "1.2.3", 0)
    assert first.body["instances"] == 3
    assert first.body["classes"] == {CT: 3}
    assert first.body["called_ae"] == "RELAYPACS"
    assert (second.study, second.body["instances"]) == ("9.9", 1)


def test_an_identical_object_is_a_transfer_too(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [end(objects=1)], [], 1.0)
    gathered(store, 2.0)
    store.take_in(NODE, [arrival(association="again")], [end("again", objects=1)], [], 3.0)
    gathered(store, 4.0)
    assert [one.body["association"] for one in told(store, "received")] == ["assoc-1", "again"]


def test_an_open_association_is_told_of_when_nothing_comes_any_more(store: JobStore) -> None:
    """Also for one whose process died: its end never comes."""
    store.take_in(NODE, [arrival("1.1")], [], [], 1.0)
    gathered(store, 100.0, quiet_seconds=60.0)
    store.take_in(NODE, [arrival("1.2")], [], [], 101.0)
    gathered(store, 161.0, quiet_seconds=60.0)
    assert told(store) == []
    gathered(store, 221.0, quiet_seconds=60.0)
    assert [one.body["instances"] for one in told(store)] == [2]
    store.take_in(NODE, [arrival("1.3")], [end(objects=3)], [], 300.0)
    gathered(store, 301.0)
    last = told(store)[-1]
    assert last.body["instances"] == 1
    assert "classes" not in last.body or last.body["classes"] == {CT: 1}


def test_what_was_delivered_is_told_per_destination_and_study(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{n}", to=("pacs", "cloud")) for n in range(3)], [end(objects=1)], [], 1.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2.0), SENT), 3.0)
    claims = store.claim("cloud", node=NODE, limit=10, lease_seconds=60, now=2.0)
    store.settle(settled(claims[:2], SENT) + settled(claims[2:], REFUSED), 4.0)
    gathered(store, 5.0)
    gathered(store, 6.0)
    rows = told(store, "delivered", "failed")
    assert sorted((one.kind, one.actor, one.body["instances"], one.outcome) for one in rows) == [
        ("delivered", "cloud", 2, 0),
        ("delivered", "pacs", 3, 0),
        ("failed", "cloud", 1, 8),
    ]
    assert {one.study for one in rows} == {"1.2.3"}
    assert [one.body["status"] for one in rows if one.kind == "failed"] == ["0122"]
    assert store.audit.told_to >= 5.0


def test_a_settlement_that_is_not_committed_yet_is_waited_for(store: JobStore, sql: Sql, url: str) -> None:
    """Ids of attempts are given out before they are committed: one that comes late is not passed over."""
    if url.startswith("sqlite"):
        pytest.skip("one writes at a time")
    store.take_in(NODE, [arrival("1.1"), arrival("1.2", study="7.7")], [end(objects=1)], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2.0)
    slow = JobStore.open(url)
    begun, go_on = threading.Event(), threading.Event()

    def settle_slowly() -> None:
        with slow._writing() as connection:
            from relaypacs.jobs import delivery

            delivery.settle(connection, settled(claims[:1], SENT), 3.0, shift=0.0)
            begun.set()
            go_on.wait(10)

    thread = threading.Thread(target=settle_slowly)
    thread.start()
    begun.wait(10)
    store.settle(settled(claims[1:], SENT), 3.0)
    gathered(store, 4.0)
    assert told(store, "delivered") == []
    assert store.audit.told_to == 0.0
    go_on.set()
    thread.join()
    slow.close()
    gathered(store, 5.0)
    gathered(store, 6.0)
    assert sorted(one.study for one in told(store, "delivered")) == ["1.2.3", "7.7"]


def refusal(tries: int, at: float) -> AssociationEnd:
    return replace(REFUSAL, tries=tries, ended_at=at)


def test_a_refusal_is_told_and_its_tries_as_they_double(store: JobStore) -> None:
    for tries in range(1, 18):
        store.take_in(NODE, [], [refusal(tries, 100.0 + tries)], [], 100.0 + tries)
        gathered(store, 100.0 + tries)
    alerts = told(store, "refused")
    assert [one.body["tries"] for one in alerts] == [1, 2, 4, 8, 16]
    assert (alerts[0].actor, alerts[0].body["word"], alerts[0].node) == ("CT1", "calling-ae", NODE)
    assert [alerts[0].outcome, alerts[1].outcome] == [4, 8]
    gathered(store, 117.0 + 601.0)
    assert told(store, "refused")[-1].body["tries"] == 17
    gathered(store, 5000.0)
    assert len(told(store, "refused")) == 6


def test_who_only_came_at_a_bad_moment_is_no_alert(store: JobStore) -> None:
    for number, word in enumerate(audit_gather.HARMLESS):
        store.take_in(NODE, [], [replace(REFUSAL, association_id=f"r{number}", word=word)], [], 1.0)
    store.take_in(NODE, [], [replace(REFUSAL, association_id="useless", outcome="released", word="contexts")], [], 1.0)
    gathered(store, 2.0)
    assert told(store) == []


def test_a_verb_is_told_with_who_and_where(store: JobStore) -> None:
    store.take_in(NODE, [arrival()], [end(objects=1)], [], 1.0)
    which = Selection(study="1.2.3")
    store.act(Verb.HOLD, store.find(Verb.HOLD, which).ids, which, 5.0, by="ops")
    (row,) = store.audit.find(Wanted(actor="ops"), limit=9)
    assert (row.entry.kind, row.entry.node, row.entry.study, row.entry.body["changed"]) == ("hold", NODE, "1.2.3", 1)
    assert store.audit.find(Wanted(study="1.2.3", since=5.0, until=5.0), limit=9) == [row]
    for nothing in (Wanted(actor="else"), Wanted(study="1.2"), Wanted(since=5.1), Wanted(until=4.9)):
        assert store.audit.find(nothing, limit=9) == []


def test_the_database_refuses_to_change_or_delete(store: JobStore, sql: Sql, url: str) -> None:
    now = time.time()
    store.audit.add([Entry(now - 80 * DAY, "start", NODE), Entry(now, "stop", NODE)])
    before = sql("SELECT count(*), max(chain) FROM audit")
    for statement, why in (
        ("UPDATE audit SET actor = 'nobody'", "append-only"),
        ("DELETE FROM audit", "append-only"),
        (f"DELETE FROM audit WHERE at < {now - DAY}", "append-only"),
        ("INSERT INTO audit_mark (mark, position) VALUES ('keep', 7775999)", "kept_long_enough"),
    ):
        with pytest.raises(Exception, match=why):
            sql(statement)
        assert sql("SELECT count(*), max(chain) FROM audit") == before
    if url.startswith("sqlite"):
        # No delete to SQLite's triggers.
        with pytest.raises(Exception, match="append-only"):
            sql("REPLACE INTO audit (id, at, kind, body) VALUES (1, 1.0, 'stop', '{}')")
        assert sql("SELECT count(*), max(chain) FROM audit") == before
    # Shorter than six years only if the node says so; less than 90 days never.
    sql(f"INSERT INTO audit_mark (mark, position) VALUES ('keep', {90 * 86400})")
    with pytest.raises(Exception, match="append-only"):
        sql(f"DELETE FROM audit WHERE at < {now - DAY}")


def test_a_temporary_table_does_not_stand_in_for_the_retention(store: JobStore, url: str) -> None:
    if url.startswith("sqlite"):
        pytest.skip("a trigger of a file's table sees no temporary one")
    from sqlalchemy import text

    store.audit.add([Entry(time.time(), "start", NODE)])
    engine = create_engine(url, connect_args={"prepare_threshold": None})
    with engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE audit_mark (mark text, position bigint) ON COMMIT DROP"))
        connection.execute(text("INSERT INTO audit_mark VALUES ('keep', -1000000)"))
        with pytest.raises(Exception, match="append-only"):
            connection.execute(text("DELETE FROM audit"))
    engine.dispose()


def test_rows_go_when_they_are_old_enough_and_the_chain_goes_on(store: JobStore, sql: Sql) -> None:
    now = time.time()
    store.audit.add([Entry(now - (100 - number) * DAY, "start", NODE) for number in range(20)])
    assert store.audit.prune(95 * DAY, now, limit=2) == 2
    assert store.audit.prune(95 * DAY, now, limit=100) == 3
    assert store.audit.prune(95 * DAY, now, limit=100) == 0
    assert len(told(store, "start")) == 15
    (said,) = told(store, "retention")
    assert said.body == {"before_days": 2192, "days": 95}
    checked = store.audit.check()
    assert (checked.rows, checked.broken_at) == (16, None)
    # A day is asked for; ninety are kept.
    store.audit.prune(DAY, now, limit=100)
    assert len(told(store, "start")) == 10
    with pytest.raises(Exception, match="append-only"):
        sql("DELETE FROM audit")


def test_rows_stay_for_ever(store: JobStore) -> None:
    now = time.time()
    store.audit.add([Entry(now - 20_000 * DAY, "start", NODE)])
    assert store.audit.prune(None, now, limit=10) == 0
    assert len(told(store, "start")) == 1


def test_a_trail_that_is_empty_goes_on_where_it_was(store: JobStore) -> None:
    now = time.time()
    store.audit.prune(100 * DAY, now - 200 * DAY, limit=9)
    store.audit.add([Entry(now - 150 * DAY, "start", NODE)])
    assert store.audit.prune(100 * DAY, now, limit=9) == 2
    assert told(store) == []
    store.audit.add([Entry(now, "stop", NODE)])
    (row,) = store.audit.find(Wanted(), limit=9)
    assert row.id == 3
    assert store.audit.check().broken_at is None


def test_what_was_changed_behind_the_triggers_is_found(store: JobStore, sql: Sql, url: str) -> None:
    store.audit.add([Entry(float(number), "hold", NODE, "ops", body={"n": number}) for number in range(5)])
    assert (store.audit.check().rows, store.audit.check().broken_at) == (5, None)
    off = "DROP TRIGGER audit_no_update" if url.startswith("sqlite") else "ALTER TABLE audit DISABLE TRIGGER USER"
    on = (
        sql("SELECT sql FROM sqlite_master WHERE name = 'audit_no_update'")[0][0]
        if url.startswith("sqlite")
        else "ALTER TABLE audit ENABLE TRIGGER USER"
    )
    sql(off)
    sql("UPDATE audit SET actor = 'somebody' WHERE id = 3")
    sql(str(on))
    assert store.audit.check().broken_at == 3


def test_rows_wait_for_the_collector_and_each_node_sends_its_own(store: JobStore) -> None:
    store.audit.add([Entry(float(number), "start", NODE) for number in range(3)])
    store.audit.add([Entry(9.0, "start", "node-b")])
    assert store.audit.backlog("c:1") == (3, 0.0)
    rows = store.audit.unsent("c:1", limit=2)
    assert [row.entry.at for row in rows] == [0.0, 1.0]
    store.audit.sent("c:1", rows[-1])
    store.audit.sent("c:1", rows[0])  # one that comes late takes nothing back
    assert [row.entry.at for row in store.audit.unsent("c:1", limit=9)] == [2.0]
    assert store.audit.backlog("other:1") == (3, 0.0)
    store.audit.node = "node-b"
    assert [row.entry.at for row in store.audit.unsent("c:1", limit=9)] == [9.0]


def test_what_a_lost_node_could_not_send_others_do(store: JobStore) -> None:
    store.join(NODE, "folder-a", 1.0)
    store.join("node-b", "folder-b", 1.0)
    store.audit.add([Entry(1.0, "start", NODE), Entry(2.0, "start", "node-b"), Entry(3.0, "stop", "node-b")])
    other = next(row for row in store.audit.find(Wanted(), limit=9) if row.entry.at == 2.0)
    store.audit.sent("c:1", other)
    assert [row.entry.node for row in store.audit.unsent("c:1", limit=9)] == [NODE]
    while store.drain("node-b", 5.0):
        pass
    assert store.audit.backlog("c:1") == (2, 1.0)
    store.audit.sent("c:1", store.audit.unsent("c:1", limit=9)[-1])
    rows = store.audit.unsent("c:1", limit=9)
    assert [(row.entry.node, row.entry.kind) for row in rows] == [("node-b", "stop")], "what it had sent is sent"
    store.audit.sent("c:1", rows[-1])
    assert store.audit.unsent("c:1", limit=9) == []
    # A new node of that name sends its own.
    store.join("node-b", "folder-c", 6.0)
    store.audit.add([Entry(7.0, "start", "node-b")])
    assert store.audit.unsent("c:1", limit=9) == []


def test_ids_are_in_the_order_of_commits(store: JobStore, url: str) -> None:
    """Whoever has read to a row has missed none before it, however many write."""
    stores = [JobStore.open(url) for _ in range(3)]
    done = threading.Event()

    def write(one: JobStore) -> None:
        one.audit.node = NODE
        for number in range(20):
            one.audit.add([Entry(float(number), "start", NODE)])

    threads = [threading.Thread(target=write, args=(one,)) for one in stores]
    seen: list[int] = []
    for thread in threads:
        thread.start()
    while not done.is_set():
        if not any(thread.is_alive() for thread in threads):
            done.set()
        for row in store.audit.unsent("c:1", limit=100):
            seen.append(row.id)
            store.audit.sent("c:1", row)
    for one in stores:
        one.close()
    assert len(seen) == len(set(seen)) == 60
    assert store.audit.check().rows == 60
    assert store.audit.check().broken_at is None


def test_a_look_goes_on_until_all_that_ended_is_told(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object an association, as some modalities send: many end in a minute, while others stay open."""
    monkeypatch.setattr(audit_gather, "MOST", 3)
    names = [f"a{number}" for number in range(10)]
    objects = [arrival(f"{name[1:]}.1", study=name[1:], association=name) for name in (*names, "a000", "a001", "a002")]
    store.take_in(NODE, objects, [end(name, objects=1) for name in names], [], 1.0)
    gathered(store, 2.0)
    assert sorted(one.body["association"] for one in told(store, "received")) == sorted(names)
    gathered(store, 100.0)
    gathered(store, 101.0)
    assert len(told(store, "received")) == 13


def test_what_a_node_received_is_told_in_its_name_by_whoever_looks(store: JobStore, url: str) -> None:
    """Also of an association that never ended; each node sends its own rows to the collector."""
    other = JobStore.open(url)
    other.audit.node = "node-b"
    store.take_in(NODE, [arrival("1.1")], [end(objects=1)], [], 1.0)
    store.take_in(NODE, [arrival("2.1", study="9.9", association="open", generation="g2")], [], [], 1.0)
    gathered(other, 2.0, quiet_seconds=60.0)
    gathered(other, 100.0, quiet_seconds=60.0)
    assert [(one.study, one.node) for one in told(store, "received")] == [("1.2.3", NODE), ("9.9", NODE)]
    other.close()


def test_the_usual_retention_is_nothing_to_tell(store: JobStore) -> None:
    now = time.time()
    store.audit.prune(2192 * DAY, now, limit=9)
    assert told(store) == []
    store.audit.prune(100 * DAY, now, limit=9)
    store.audit.prune(2192 * DAY, now, limit=9)
    assert [one.body["days"] for one in told(store, "retention")] == [100, 2192]


def test_two_nodes_tell_of_everything_once(store: JobStore, url: str) -> None:
    other = JobStore.open(url)
    other.audit.node = "node-b"
    objects = [arrival(f"{study}.1", study=str(study), association=f"a{study}") for study in range(30)]
    store.take_in(NODE, objects, [end(f"a{study}", objects=1) for study in range(30)], [], 1.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=99, lease_seconds=60, now=2.0), SENT), 3.0)
    threads = [threading.Thread(target=gathered, args=(one, 400.0)) for one in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gathered(store, 500.0)
    other.close()
    assert sorted(one.study for one in told(store, "received")) == sorted(str(study) for study in range(30))
    assert sorted(one.study for one in told(store, "delivered")) == sorted(str(study) for study in range(30))


PAGE = Path(__file__).parents[3] / "docs" / "audit.md"
GRANTS = re.findall(r"^((?:GRANT|REVOKE) .*);$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
"""What docs/audit.md says to grant."""


def test_a_role_that_owns_nothing_does_its_work_and_can_take_no_trigger_away(
    store: JobStore, sql: Sql, url: str, request: pytest.FixtureRequest
) -> None:
    if url.startswith("sqlite") or "pgbouncer" in request.node.name:
        pytest.skip("roles of PostgreSQL, chosen as a session begins")
    sql("DROP ROLE IF EXISTS relay")
    sql("CREATE ROLE relay")
    try:
        assert len(GRANTS) == 4
        for grant in GRANTS:
            sql(grant)
        node = JobStore.open(f"{url}?options=-c%20role%3Drelay")
        node.audit.node = NODE
        now = time.time()
        node.take_in(NODE, [arrival()], [end(objects=1)], [], 1.0)
        node.settle(settled(node.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0), SENT), 3.0)
        gathered(node, 5.0)
        gathered(node, 6.0)
        assert {one.kind for one in told(node)} == {"received", "delivered"}
        assert node.audit.prune(90 * DAY, now, limit=1) == 1, "what is past its time goes"
        node.audit.sent("c:1", node.audit.unsent("c:1", limit=9)[-1])
        node.close()
        engine = create_engine(url, connect_args={"options": "-c role=relay", "prepare_threshold": None})
        for statement in (
            "UPDATE audit SET actor = 'x'",
            "TRUNCATE audit",
            "ALTER TABLE audit DISABLE TRIGGER USER",
            "DROP TRIGGER audit_kept ON audit",
            "DROP TABLE audit",
            "SET session_replication_role = replica",
            "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RETURN OLD; END $$",
        ):
            with engine.connect() as connection, pytest.raises(Exception, match=r"permission denied|must be owner"):
                connection.exec_driver_sql(statement)
        engine.dispose()
    finally:
        sql("DROP OWNED BY relay")
        sql("DROP ROLE relay")

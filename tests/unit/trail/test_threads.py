"""The threads of the audit trail on a real job table: what they tell, send and keep, also when something is down."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from relaypacs.jobs.audit_dialect import LEAST_SECONDS
from relaypacs.jobs.audit_rows import Entry, Wanted
from relaypacs.jobs.store import JobStore
from relaypacs.trail import keeping, sending, telling
from relaypacs.trail.collector import CollectorDown
from relaypacs.trail.keeping import Keeper
from relaypacs.trail.messages import Place
from relaypacs.trail.sending import Sender
from relaypacs.trail.telling import Teller
from tests.peers.ports import wait_until

PLACE = Place("n", "host")


class Taker:
    """A stand-in for the collector's connection: takes batches, or is down, or takes and does not say so."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.down = self.silent = False

    def hand_over(self, messages: list[bytes]) -> None:
        if self.down:
            raise CollectorDown("the audit collector is away")
        self.batches.append(list(messages))
        if self.silent:
            raise CollectorDown("the audit collector does not answer in time")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore.open(f"sqlite:///{tmp_path}/jobs.sqlite")
    store.migrate()
    store.audit.node = "n"
    yield store
    store.close()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is logged."""
    seen: list[str] = []
    for module in (keeping, sending, telling):
        monkeypatch.setattr(module.log, "event", lambda _level, name, _text, **_: seen.append(name))
    return seen


def sender(store: JobStore, taker: Taker, to: str = "c:6514") -> Sender:
    return Sender(store.audit, taker, to, PLACE)  # type: ignore[arg-type]


def add(store: JobStore, count: int, first: int = 0, node: str = "n") -> None:
    store.audit.add([Entry(float(number), "hold", node, f"ops{number}") for number in range(first, first + count)])


def actors(taker: Taker) -> list[int]:
    """Which rows came, by the number in the actor."""
    return [int(one.split(b'UserID="ops')[1].split(b'"')[0]) for batch in taker.batches for one in batch]


def sample(name: str) -> float:
    found = REGISTRY.get_sample_value(name)
    assert found is not None, name
    return found


def started(stack: list[Any], thread: Any) -> threading.Thread:
    running = threading.Thread(target=thread.run, daemon=True)
    running.start()
    stack.append((thread, running))
    return running


@pytest.fixture
def running() -> Iterator[list[Any]]:
    stack: list[Any] = []
    yield stack
    for thread, task in stack:
        thread.stop()
        task.join(10)
        assert not task.is_alive()


def test_rows_are_sent_in_their_order_and_only_once(store: JobStore, events: list[str]) -> None:
    taker = Taker()
    one = sender(store, taker)
    add(store, sending.BATCH + 5)
    store.audit.add([Entry(1.0, "hold", "another node", "ops999")])
    assert one.step()
    assert not one.step()
    assert not one.step()
    assert actors(taker) == list(range(sending.BATCH + 5)), "each node sends its own"
    add(store, 2, first=500)
    sender(store, taker).step()  # another life
    assert actors(taker)[-2:] == [500, 501]
    assert len(actors(taker)) == sending.BATCH + 7
    sender(store, taker, to="another:6514").step()
    assert len(actors(taker)) == 2 * sending.BATCH + 7, "another collector gets them from the first"
    assert events == []


def test_what_is_not_known_to_be_read_is_sent_again(store: JobStore, events: list[str]) -> None:
    taker = Taker()
    one = sender(store, taker)
    add(store, 3)
    taker.silent = True
    with pytest.raises(CollectorDown):
        one.step()
    taker.silent = False
    assert not one.step()
    assert actors(taker) == [0, 1, 2, 0, 1, 2]
    assert events == []


def test_a_row_that_somebody_put_there_holds_nothing_up(store: JobStore, tmp_path: Path, events: list[str]) -> None:
    add(store, 1)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        rows = [(1.0, "hold", "[]"), (1e300, "hold", "{}"), (1.0, "received", "no JSON")]
        connection.executemany("INSERT INTO audit (at, kind, body, node) VALUES (?, ?, ?, 'n')", rows)
    add(store, 1, first=7)
    taker = Taker()
    assert not sender(store, taker).step()
    assert len(taker.batches[0]) == 5
    assert b'UserID="ops7"' in taker.batches[0][-1]
    assert events == ["audit-message-failed"]
    assert len(store.audit.find(Wanted(), limit=9)) == 5
    assert store.audit.check().broken_at == 2


def test_a_collector_that_is_away_is_told_once_and_gets_all(
    store: JobStore, events: list[str], running: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(sending, "LONGEST_PAUSE_SECONDS", 0.02)
    taker = Taker()
    taker.down = True
    one = sender(store, taker)
    failures = sample("relaypacs_audit_send_failures_total")
    add(store, 3)
    started(running, one)
    wait_until(lambda: sample("relaypacs_audit_send_failures_total") >= failures + 3, "it is tried again", 10)
    assert sample("relaypacs_audit_unsent_rows") == 3
    assert sample("relaypacs_audit_oldest_unsent_timestamp_seconds") == 0.0
    taker.down = False
    wait_until(lambda: sample("relaypacs_audit_unsent_rows") == 0, "all is sent", 10)
    add(store, 1, first=3)
    one.poke()
    wait_until(lambda: len(actors(taker)) == 4, "what is new follows at once", 10)
    assert actors(taker) == [0, 1, 2, 3]
    assert events == ["audit-collector-down", "audit-collector-up"]


def test_the_last_rows_are_sent_at_the_end(store: JobStore, running: list[Any]) -> None:
    taker = Taker()
    one = sender(store, taker)
    task = started(running, one)
    time.sleep(0.1)
    add(store, 1)
    one.stop()
    task.join(10)
    assert actors(taker) == [0]


def test_start_stop_and_what_is_noted(store: JobStore, running: list[Any]) -> None:
    written = threading.Event()
    teller = Teller(store.audit, place_of=lambda _: {}, quiet_seconds=60.0, written=written.set)
    task = started(running, teller)
    assert written.wait(10)
    teller.note("config-taken", {"changed": ["rule"]})
    wait_until(lambda: len(store.audit.find(Wanted(), limit=9)) == 2, "it is told at once", 10)
    teller.stop()
    task.join(10)
    rows = list(reversed(store.audit.find(Wanted(), limit=9)))
    assert [row.entry.kind for row in rows] == ["start", "config-taken", "stop"]
    assert {(row.entry.node, row.entry.actor) for row in rows} == {("n", "n")}
    assert rows[1].entry.body == {"changed": ["rule"]}


def test_with_the_job_table_away_it_is_told_later(
    store: JobStore, tmp_path: Path, events: list[str], running: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "RETRY_SECONDS", 0.01)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("ALTER TABLE audit RENAME TO away")
    teller = Teller(store.audit, place_of=lambda _: {}, quiet_seconds=60.0)
    started(running, teller)
    wait_until(lambda: sample("relaypacs_audit_trouble") == 1, "it shows", 10)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("ALTER TABLE away RENAME TO audit")
    wait_until(lambda: sample("relaypacs_audit_trouble") == 0, "it is over", 10)
    assert [row.entry.kind for row in store.audit.find(Wanted(), limit=9)] == ["start"]
    assert events == ["audit-trail-waits", "audit-trail-written"]


def keeper(store: JobStore, clock: Callable[[], float], keep: float | None = None, piece: int = 1000) -> Keeper:
    return Keeper(store.audit, keep_seconds=keep, clock=clock, piece=piece)


def test_rows_are_deleted_in_their_time_in_pieces(store: JobStore, events: list[str]) -> None:
    keep = float(LEAST_SECONDS)
    now = time.time()
    store.audit.add([Entry(now - keep - 100 + number, "hold", "n", "ops") for number in range(7)])
    store.audit.add([Entry(now - 5, "hold", "n", "ops")])
    keeper(store, lambda: now, keep, piece=3).step()
    left = [row.entry.kind for row in reversed(store.audit.find(Wanted(), limit=99))]
    assert left == ["hold", "retention"]
    assert sample("relaypacs_audit_chain_broken") == 0, "the chain goes on from what was deleted"
    assert events == []


def test_a_changed_row_is_seen_and_told_once(store: JobStore, tmp_path: Path, events: list[str]) -> None:
    now = [1000.0]
    one = keeper(store, lambda: now[0])
    add(store, 5)
    one.step()
    assert sample("relaypacs_audit_chain_broken") == 0
    add(store, 5, first=5)
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET actor = 'nobody' WHERE actor IN ('ops1', 'ops7')")
    one.step()
    assert sample("relaypacs_audit_chain_broken") == 1, "the new rows were followed"
    assert events == ["audit-chain-broken"]
    now[0] += keeping.WHOLE_SECONDS
    one.step()
    one.step()
    assert events == ["audit-chain-broken"] * 2, "the earlier one, from the beginning, and told once"
    with sqlite3.connect(tmp_path / "jobs.sqlite") as connection:
        connection.execute("UPDATE audit SET actor = 'ops1' WHERE id IN (SELECT id FROM audit WHERE at = 1.0)")
        connection.execute("UPDATE audit SET actor = 'ops7' WHERE at = 7.0")
    one.step()
    assert sample("relaypacs_audit_chain_broken") == 0

"""The association log on every database: newest wins, what was proposed is kept once, old rows go in pieces."""

from __future__ import annotations

from dataclasses import replace

from relaypacs.jobs.associations import Asked
from relaypacs.jobs.store import JobStore
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, arrival, end

EVERYTHING = Asked()


def ids(store: JobStore, asked: Asked = EVERYTHING, limit: int = 100) -> list[str]:
    return [row.association_id for row in store.associations.find(asked, limit=limit)]


def refused(association: str, *, tries: int = 1, ended_at: float = 200.0, **changes: object) -> object:
    made = end(association, objects=0, ended_at=ended_at)
    return replace(
        made, outcome="rejected", word="calling-ae", reason="no", tries=tries, admitted=False, bytes=0, **changes
    )  # type: ignore[arg-type]


def take(store: JobStore, *ends: object) -> None:
    store.take_in(NODE, [], list(ends), [], 300.0)  # type: ignore[arg-type]


def test_a_row_has_what_the_event_said(store: JobStore) -> None:
    said = replace(end(objects=2), tls=True, contexts="[proposed]", reason="ä\0", outcome="aborted")
    store.take_in(NODE, [arrival("1"), arrival("2")], [said], [], 300.0)
    (row,) = store.associations.find(Asked(), limit=9)
    assert (row.association_id, row.node, row.calling_ae, row.peer) == ("assoc-1", NODE, "CT1", "10.0.0.7:40123")
    assert (row.started_at, row.ended_at, row.objects, row.tls, row.tries) == (99.0, 200.0, 2, True, 1)
    assert (row.contexts, row.reason, row.outcome) == ("[proposed]", "ä\N{REPLACEMENT CHARACTER}", "aborted")
    assert store.ledger().imbalance == 0


def test_what_was_refused_is_no_association_of_the_ledger(store: JobStore, sql: Sql) -> None:
    take(store, refused("r1"))
    assert sql("SELECT count(*) FROM association") == [(0,)]
    assert ids(store) == ["r1"]


def test_the_highest_count_stays_whatever_comes_first(store: JobStore) -> None:
    take(store, refused("r1", tries=7, ended_at=207.0, contexts="[1]"))
    take(store, refused("r1", tries=3, ended_at=203.0), refused("r1", tries=9, ended_at=209.0))
    take(store, refused("r1", tries=8, ended_at=208.0))
    (row,) = store.associations.find(Asked(), limit=9)
    assert (row.tries, row.ended_at, row.contexts) == (9, 209.0, "[1]")


def test_taken_in_twice_is_once(store: JobStore) -> None:
    for _ in range(2):
        take(store, end("a", objects=0), refused("r1"))
    assert sorted(ids(store)) == ["a", "r1"]


def test_choices(store: JobStore) -> None:
    take(
        store,
        end("a1", objects=0, ended_at=100.0),
        end("a2", objects=0, ended_at=300.0, calling_ae="MR"),
        replace(end("b1", objects=0, ended_at=200.0), word="contexts"),
        refused("r_1", ended_at=400.0),
        refused("r%1", ended_at=500.0, calling_ae="MR"),
    )
    assert ids(store) == ["r%1", "r_1", "a2", "b1", "a1"]
    assert ids(store, limit=2) == ["r%1", "r_1"]
    assert ids(store, Asked(refused=True)) == ["r%1", "r_1", "b1"]
    assert ids(store, Asked(calling_ae="MR")) == ["r%1", "a2"]
    assert ids(store, Asked(calling_ae="mr")) == []
    assert ids(store, Asked(since=300.0)) == ["r%1", "r_1", "a2"]
    assert ids(store, Asked(association_id="a")) == ["a2", "a1"]
    assert ids(store, Asked(association_id="r_1")) == ["r_1"]
    assert ids(store, Asked(association_id="%")) == []
    assert ids(store, Asked(refused=True, calling_ae="MR", since=450.0)) == ["r%1"]


def test_old_ones_go_in_pieces_with_what_only_they_proposed(store: JobStore, sql: Sql) -> None:
    ends = [replace(end(f"a{n}", objects=0, ended_at=100.0 + n), contexts=f"[{n % 3}]") for n in range(10)]
    store.take_in(NODE, [arrival("1", association="a0")], [*ends, replace(ends[0], association_id="n")], [], 300.0)
    take(store, replace(end("new", objects=0, ended_at=200.0), contexts="[2]"))
    assert store.associations.forget(ended_before=100.0, limit=4) == 0
    assert [store.associations.forget(ended_before=150.0, limit=4) for _ in range(4)] == [4, 4, 3, 0]
    assert ids(store) == ["new"]
    assert sql("SELECT contexts FROM proposal") == [("[2]",)]
    assert sql("SELECT count(*) FROM association WHERE association_id = 'a0'") == [(1,)]


def test_hostile_values_are_stored(store: JobStore) -> None:
    hostile = "\ud800\0'; DROP TABLE association_log; --" + "x" * 10_000
    take(store, replace(end("h", objects=0), calling_ae=hostile, reason=hostile, word=hostile, peer=hostile))  # type: ignore[arg-type]
    (row,) = store.associations.find(Asked(), limit=9)
    assert len(row.reason) <= 256

"""A study sent again, let go or given up."""

from __future__ import annotations

import json
import time

import pytest

from relaypacs.errors import JobsError
from relaypacs.jobs.marks import Mark
from relaypacs.jobs.states import Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Acted, Selection
from relaypacs.model import Deferred, Routed, Scope, State
from tests.contract.test_jobs.conftest import Sql
from tests.unit.jobs.made import NODE, REFUSED, SENT, arrival, asked, discarded, end, released, resent, settled


def states(store: JobStore, uid: str) -> list[tuple[str, State]]:
    return [(one.destination, one.state) for row in store.trace(uid) for one in row.deliveries]


def test_a_study_is_sent_again_where_it_is_over(store: JobStore) -> None:
    uids = ["1.done", "1.failed", "1.waiting", "1.gone", "1.never", "1.dropped"]
    store.take_in(
        NODE,
        [
            arrival("1.done"),
            arrival("1.failed"),
            arrival("1.waiting"),
            arrival("1.gone", generation="g2"),
            arrival("1.never", to=()),
            arrival("1.dropped", verdict=Routed.DROPPED, association="assoc-2"),
            arrival("2.other", study="2"),
        ],
        [end(objects=6), end("assoc-2", objects=1)],
        [],
        1.0,
    )
    done, failed, waiting, gone, *rest = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=2.0)
    store.give_back([waiting, *rest])
    store.settle(settled([done, gone]) + settled([failed], REFUSED), 3.0)
    store.forget_segment(NODE, "g2")

    assert resent(store, "1.2.3", "pacs", 10.0) == Acted(changed=4, already_live=1, no_bytes=1)
    assert [states(store, uid) for uid in uids] == [
        [("pacs", State.DELIVERED), ("pacs", State.QUEUED)],
        [("pacs", State.DISCARDED), ("pacs", State.QUEUED)],
        [("pacs", State.QUEUED)],
        [("pacs", State.DELIVERED)],
        [("pacs", State.QUEUED)],
        [("pacs", State.QUEUED)],
    ]
    assert store.marks.counts()[Mark.UNROUTED] == 0
    for part in ({}, {"association": "assoc-1"}, {"association": "assoc-2"}, {"study": "1.2.3"}, {"study": "2"}):
        assert store.ledger(**part).imbalance == 0, part
    again = store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=11.0)
    assert {one.sop_instance_uid for one in again} == {*uids, "2.other"} - {"1.gone"}


def test_a_study_nobody_knows(store: JobStore) -> None:
    store.take_in(NODE, [arrival(study="")], [], [], 1.0)
    assert resent(store, "9.9", "pacs", 2.0) == Acted()
    assert resent(store, "", "cloud", 2.0) == Acted()
    assert store.ledger().imbalance == 0


def test_held_deliveries_are_let_go_or_given_up(store: JobStore) -> None:
    for study in ("a", "b"):
        store.take_in(NODE, [arrival(f"{study}.1", study=study)], [], [], 1.0)
        store.take_in(NODE, [arrival(f"{study}.1", content="x", study=study, conflict="hold-newer")], [], [], 2.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=3.0)), 3.0)
    assert store.next_due("pacs", 4.0) is None
    assert released(store, "a", "cloud", 5.0) == 0
    assert released(store, "a", "pacs", 5.0) == 1
    assert released(store, "a", "pacs", 5.0) == 0
    assert discarded(store, "b", "pacs", 5.0) == 1
    assert states(store, "a") == [("pacs", State.DELIVERED), ("pacs", State.QUEUED)]
    assert states(store, "b") == [("pacs", State.DELIVERED), ("pacs", State.DISCARDED)]
    assert len(store.claim("pacs", node=NODE, limit=10, lease_seconds=60, now=6.0)) == 1
    assert store.ledger().imbalance == 0


def test_discarding_leaves_what_is_on_its_way_and_what_is_over(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}") for number in range(5)], [], [], 1.0)
    sent, failed, deferred, _ = store.claim("pacs", node=NODE, limit=4, lease_seconds=60, now=2.0)
    store.settle(settled([sent]) + settled([failed], REFUSED), 3.0)
    store.settle(settled([deferred], Deferred("later", Scope.SITE), retry_at=900.0), 3.0)
    assert discarded(store, "1.2.3", "pacs", 5.0) == 3
    assert states(store, "1.2.3") == [
        ("pacs", State.DELIVERED),
        ("pacs", State.DISCARDED),
        ("pacs", State.DISCARDED),
        ("pacs", State.ACTIVE),
        ("pacs", State.DISCARDED),
    ]
    assert store.ledger().imbalance == 0


def test_each_leaves_a_line_that_cannot_be_changed(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    store.settle(settled(store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=2.0), SENT), 3.0)
    now = time.time()  # lines that are old enough may go
    resent(store, "1.2.3", "pacs", now)
    discarded(store, "1.2.3", "pacs", now + 1.0)
    released(store, "1.2.3", "pacs", now + 2.0)
    lines = sql("SELECT at, kind, body FROM audit ORDER BY id")
    assert [(at, kind) for at, kind, _ in lines] == [(now, "resend"), (now + 1.0, "discard"), (now + 2.0, "release")]
    assert json.loads(str(lines[0][2])) == {"destination": "pacs", "changed": 1}
    for statement in ("UPDATE audit SET kind = 'x'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="append-only"):
            sql(statement)
    assert len(sql("SELECT 1 FROM audit")) == 3


def test_the_database_refuses_what_must_never_be(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival(to=("pacs", "cloud"))], [], [], 1.0)
    for statement in (
        "UPDATE delivery SET destination = 'pacs'",
        "UPDATE delivery SET state = 'sent'",
        "UPDATE delivery SET state = 'active', ready = false",
        "UPDATE delivery SET state = 'delivered', ready = false",
        "UPDATE delivery SET ready = false",
        "UPDATE delivery SET state = 'held'",
        "UPDATE delivery SET instance_id = 99",
        "UPDATE instance SET verdict = 'lost'",
        "DELETE FROM instance",
        "INSERT INTO instance (association_id, sop_instance_uid, digest, received_at, verdict, node)"
        " SELECT association_id, sop_instance_uid, digest, received_at, verdict, node FROM instance",
    ):
        with pytest.raises(Exception, match=r"(?i)constraint"):
            sql(statement)
    assert store.ledger().imbalance == 0


def test_a_selection_fits_what_all_its_parts_fit(store: JobStore) -> None:
    both = ("pacs", "cloud")
    store.take_in(NODE, [arrival("a.1", study="a", to=both), arrival("a.2", study="a", to=both)], [], [], 100.0)
    store.take_in(NODE, [arrival("b.1", study="b", association="assoc-2", calling_ae="MR1")], [], [], 200.0)
    first, second, third = store.claim("pacs", node=NODE, limit=3, lease_seconds=60, now=300.0)
    store.settle(settled([first], REFUSED) + settled([second], Deferred("x", Scope.SITE), retry_at=900.0), 300.0)
    store.give_back([third])

    def found(verb: Verb, which: Selection) -> dict[tuple[str, State], int]:
        some = store.find(verb, which)
        assert len(some.ids) == sum(some.counts.values())
        return dict(some.counts)

    deferred, queued = ("pacs", State.DEFERRED), ("pacs", State.QUEUED)
    assert found(Verb.HOLD, Selection()) == {deferred: 1, queued: 1, ("cloud", State.QUEUED): 2}
    assert found(Verb.HOLD, Selection("pacs")) == {deferred: 1, queued: 1}
    assert found(Verb.HOLD, Selection(study="a")) == {deferred: 1, ("cloud", State.QUEUED): 2}
    assert found(Verb.HOLD, Selection(calling_ae="MR1")) == {queued: 1}
    assert found(Verb.HOLD, Selection(states=frozenset({State.DEFERRED}))) == {deferred: 1}
    assert found(Verb.HOLD, Selection(before=200.0)) == {deferred: 1, ("cloud", State.QUEUED): 2}
    assert found(Verb.HOLD, Selection(after=200.0)) == {queued: 1}
    assert found(Verb.HOLD, Selection("cloud", calling_ae="MR1")) == {}
    assert found(Verb.HOLD, Selection(states=frozenset({State.FAILED}))) == {}
    assert found(Verb.HOLD, Selection(study="")) == {}
    assert found(Verb.RELEASE, Selection()) == {}
    assert found(Verb.RETRY, Selection()) == {deferred: 1, ("pacs", State.FAILED): 1}
    assert found(Verb.DISCARD, Selection("pacs")) == {deferred: 1, queued: 1, ("pacs", State.FAILED): 1}
    failed = Selection("pacs", states=frozenset({State.FAILED}))
    assert store.find(Verb.RESEND, failed).ids == [first.instance_id]
    assert len(store.find(Verb.RESEND, Selection("cloud", calling_ae="CT1")).ids) == 2
    assert len(store.find(Verb.RESEND, Selection("cloud", calling_ae="MR1")).ids) == 1


def test_held_deliveries_wait_and_go_on_when_released(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}", to=("pacs", "cloud")) for number in range(4)], [], [], 1.0)
    (deferred, on_its_way) = store.claim("pacs", node=NODE, limit=2, lease_seconds=60, now=2.0)
    store.settle(settled([deferred], Deferred("x", Scope.SITE), retry_at=900.0), 3.0)
    assert asked(store, Verb.HOLD, Selection("pacs"), 4.0) == Acted(changed=3)
    assert store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=999.0) != []  # the one whose lease has ended
    assert store.next_due("pacs", 5.0) == 999.0 + 60
    assert len(store.claim("cloud", node=NODE, limit=9, lease_seconds=60, now=5.0)) == 4
    book = store.ledger()
    assert (book.held, book.imbalance) == (3, 0)
    assert store.settle(settled([on_its_way]), 5.0) == 0
    assert asked(store, Verb.RELEASE, Selection(), 6.0) == Acted(changed=3)
    again = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=7.0)
    assert sorted(one.attempts for one in again) == [0, 0, 1]
    store.give_back(again)
    assert store.ledger().imbalance == 0


def test_retry_tries_what_waits_now_and_queues_dead_letters_anew(store: JobStore) -> None:
    store.take_in(NODE, [arrival(f"1.{number}", priority=number) for number in range(3)], [], [], 1.0)
    claims = store.claim("pacs", node=NODE, limit=3, lease_seconds=60, now=2.0)
    failed, deferred, done = claims
    store.settle(settled([failed], REFUSED) + settled([done]), 3.0)
    store.settle(settled([deferred], Deferred("x", Scope.SITE), retry_at=900.0), 3.0)
    assert store.next_due("pacs", 4.0) == 900.0
    found = store.find(Verb.RETRY, Selection())
    assert store.act(Verb.RETRY, found.ids, Selection(), 4.0) == Acted(changed=2)
    assert store.act(Verb.RETRY, found.ids, Selection(), 4.0) == Acted(), "what was found is looked at again"
    again = store.claim("pacs", node=NODE, limit=9, lease_seconds=60, now=5.0)
    assert [(one.instance_id, one.priority, one.attempts) for one in again] == [
        (failed.instance_id, failed.priority, 0),
        (deferred.instance_id, deferred.priority, 1),
    ]
    book = store.ledger()
    assert (book.routed, book.pending, book.discarded, book.imbalance) == (4, 2, 1, 0)


def test_the_audit_line_says_who_asked_for_what(store: JobStore, sql: Sql) -> None:
    store.take_in(NODE, [arrival()], [], [], 1.0)
    which = Selection(calling_ae="CT1", states=frozenset({State.QUEUED}), before=50.0)
    store.act(Verb.HOLD, store.find(Verb.HOLD, which).ids, which, 60.0, by="alice")
    ((kind, actor, body),) = sql("SELECT kind, actor, body FROM audit")
    assert (kind, actor) == ("hold", "alice")
    assert json.loads(str(body)) == {"caller": "CT1", "states": ["queued"], "before": 50.0, "changed": 1}


def test_a_refusal_is_a_sentence_without_a_row(store: JobStore, sql: Sql) -> None:
    sql("CREATE UNIQUE INDEX in_the_way ON instance (patient_id)")
    with pytest.raises(JobsError) as caught:
        store.take_in(NODE, [arrival("1.1"), arrival("1.2")], [], [], 1.0)
    assert "PID-" not in str(caught.value)
    assert caught.value.__suppress_context__
    sql("DROP INDEX in_the_way")

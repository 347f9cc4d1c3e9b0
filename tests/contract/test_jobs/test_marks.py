"""Instances that want a person's eye."""

from __future__ import annotations

from relaypacs.jobs.marks import Mark, Marked
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Arrival
from relaypacs.model import RoutingKeys
from tests.unit.jobs.made import NODE, arrival


def unroutable(uid: str, **more: object) -> Arrival:
    return arrival(uid, to=(), **more)  # type: ignore[arg-type]


def test_how_many_bear_each_mark(store: JobStore) -> None:
    assert store.marks.counts() == {Mark.UNROUTED: 0, Mark.CONFLICT: 0, Mark.UNPARSED: 0}
    store.take_in(NODE, [unroutable("1.1"), arrival("1.1", content="other")], [], [], 1.0)
    assert store.marks.counts() == {Mark.UNROUTED: 1, Mark.CONFLICT: 2, Mark.UNPARSED: 0}


def test_they_are_listed_by_study_and_caller_the_last_received_first(store: JobStore) -> None:
    came = [
        unroutable("1.1", study="1", association="a", calling_ae="CT1", received_at=10.0),
        unroutable("1.2", study="1", association="a", calling_ae="CT1", received_at=30.0),
        unroutable("1.3", study="1", association="b", calling_ae="CT2", received_at=40.0),
        unroutable("2.1", study="2", association="c", calling_ae="CT1", received_at=20.0),
        arrival("2.2", study="2", association="c", calling_ae="CT1", received_at=50.0),
    ]
    store.take_in(NODE, came, [], [], 60.0)
    found = [
        Marked(Mark.UNROUTED, "1", "CT2", "1.3", 1, 40.0, 40.0),
        Marked(Mark.UNROUTED, "1", "CT1", "1.1", 2, 10.0, 30.0),
        Marked(Mark.UNROUTED, "2", "CT1", "2.1", 1, 20.0, 20.0),
    ]
    assert store.marks.studies(Mark.UNROUTED, limit=10) == found
    assert store.marks.studies(Mark.UNROUTED, limit=2) == found[:2]
    assert store.marks.studies(Mark.CONFLICT, limit=10) == []


def test_what_nobody_can_read_is_listed_without_a_study(store: JobStore) -> None:
    keys = RoutingKeys(problem="the dataset's head ends early")
    store.take_in(NODE, [arrival("1.1", keys=keys), arrival("2.1")], [], [], 60.0)
    assert store.marks.studies(Mark.UNPARSED, limit=10) == [Marked(Mark.UNPARSED, "", "CT1", "1.1", 1, 100.0, 100.0)]

"""The table of transitions is whole, and nothing in the room goes round it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import relaypacs.jobs
from relaypacs.jobs.states import INITIAL, LIVE_STATES, OWED_STATES, PENDING_STATES, TRANSITIONS, Change
from relaypacs.model import State

ROOM = Path(relaypacs.jobs.__file__).parent


def test_every_change_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Change)


def test_every_state_can_be_reached_and_nothing_is_stuck() -> None:
    reached = set(INITIAL)
    while more := {target for sources, target in TRANSITIONS.values() if sources & reached} - reached:
        reached |= more
    assert reached == set(State)
    left = {source for sources, target in TRANSITIONS.values() for source in sources if source is not target}
    assert left == set(State) - {State.DELIVERED, State.DISCARDED}


def test_what_is_over_stays_over() -> None:
    for change, (sources, target) in TRANSITIONS.items():
        assert not sources & {State.DELIVERED, State.DISCARDED}, change
        if State.FAILED in sources:
            assert target is State.DISCARDED, change


def test_only_a_worker_that_holds_it_ends_a_delivery() -> None:
    for change in (Change.DELIVER, Change.DEFER, Change.FAIL, Change.RETURN, Change.RETURN_UNTRIED):
        assert TRANSITIONS[change][0] == {State.ACTIVE}


def test_the_kinds_of_states() -> None:
    assert PENDING_STATES < LIVE_STATES < OWED_STATES
    assert set(State) - OWED_STATES == {State.DELIVERED, State.DISCARDED}


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_nothing_else_sets_a_state(path: Path) -> None:
    """One UPDATE sets `state`, in `delivery.move`; rows begin in an initial one, in `batch` and `people`."""
    source = path.read_text()
    assert len(re.findall(r"\bvalues\(.*\bstate=", source)) == (path.name == "delivery.py")
    for inserted in re.findall(r'"state": (.+),', source):
        assert inserted in ("state", "State.QUEUED", "State.ACTIVE"), path
        assert path.name in ("batch.py", "people.py")

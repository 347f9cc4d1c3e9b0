"""A delivery's states and every change there is between them, as one table (DESIGN section 6).

Pure. `delivery.py` and `people.py` turn a `Change` into an UPDATE that names the states it may start from, so a change
that isn't in the table can't happen; intake only inserts, in an `INITIAL` state. `docs/delivery.md` explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from relaypacs.model import State


class Change(StrEnum):
    """What can happen to a delivery."""

    CLAIM = "claim"
    """A worker leases it; also one whose lease has ended."""
    RETURN_UNTRIED = "return-untried"
    """The worker did not try it, and nobody had before."""
    RETURN = "return"
    """The worker did not try it; it had been tried before."""
    DELIVER = "deliver"
    DEFER = "defer"
    FAIL = "fail"
    HOLD = "hold"
    """A person stops it before it goes."""
    RELEASE = "release"
    """A person lets a held one go."""
    DISCARD = "discard"
    """A person gives it up."""
    ABANDON = "abandon"
    """The node that has its bytes is gone for good."""
    SUPERSEDE = "supersede"
    """A dead letter is answered: the instance is queued for the destination anew."""
    DIVERT = "divert"
    """Its destination does not answer, and another one gets it instead."""
    REFUTE = "refute"
    """The destination said that it has the instance and does not list it: as it is queued anew, it is a dead letter."""


TRANSITIONS: Mapping[Change, tuple[frozenset[State], State]] = {
    Change.CLAIM: (frozenset({State.QUEUED, State.DEFERRED, State.ACTIVE}), State.ACTIVE),
    Change.RETURN_UNTRIED: (frozenset({State.ACTIVE}), State.QUEUED),
    Change.RETURN: (frozenset({State.ACTIVE}), State.DEFERRED),
    Change.DELIVER: (frozenset({State.ACTIVE}), State.DELIVERED),
    Change.DEFER: (frozenset({State.ACTIVE}), State.DEFERRED),
    Change.FAIL: (frozenset({State.ACTIVE}), State.FAILED),
    Change.HOLD: (frozenset({State.QUEUED, State.DEFERRED}), State.HELD),
    Change.RELEASE: (frozenset({State.HELD}), State.QUEUED),
    Change.DISCARD: (frozenset({State.QUEUED, State.DEFERRED, State.HELD, State.FAILED}), State.DISCARDED),
    Change.ABANDON: (frozenset({State.QUEUED, State.ACTIVE, State.DEFERRED, State.HELD}), State.FAILED),
    Change.SUPERSEDE: (frozenset({State.FAILED}), State.DISCARDED),
    Change.DIVERT: (frozenset({State.QUEUED, State.DEFERRED}), State.DISCARDED),
    Change.REFUTE: (frozenset({State.QUEUED}), State.FAILED),
}
"""Change: the states it may start from, the state it ends in."""

INITIAL: frozenset[State] = frozenset({State.QUEUED, State.HELD, State.ACTIVE})
"""The states a delivery is inserted in: active if a worker of the node has it from the first moment."""

PENDING_STATES: frozenset[State] = frozenset({State.QUEUED, State.ACTIVE, State.DEFERRED})
"""A worker will see to it without anyone's doing."""

LIVE_STATES: frozenset[State] = PENDING_STATES | {State.HELD}
"""Not over: no second delivery of the instance to the destination is added."""

OWED_STATES: frozenset[State] = LIVE_STATES | {State.FAILED}
"""The instance's bytes must not go: it is still to be delivered, or a person has to decide."""


class Verb(StrEnum):
    """What a person asks for deliveries that they name by destination, study, caller, state or age."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    """Deferred ones are tried now, dead letters are queued anew."""
    DISCARD = "discard"
    RESEND = "resend"
    """Instances, whatever became of their deliveries, are queued anew."""


SELECTS: Mapping[Verb, frozenset[State]] = {
    Verb.HOLD: TRANSITIONS[Change.HOLD][0],
    Verb.RELEASE: TRANSITIONS[Change.RELEASE][0],
    Verb.RETRY: frozenset({State.DEFERRED}) | TRANSITIONS[Change.SUPERSEDE][0],
    Verb.DISCARD: TRANSITIONS[Change.DISCARD][0],
    Verb.RESEND: frozenset({State.DELIVERED, State.FAILED, State.DISCARDED}),
}
"""The states of the deliveries a verb concerns; of an instance sent again, the state its latest delivery may be in."""

"""Any order of what intake, workers, people and time do, against a small model of what must come of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relaypacs.jobs.states import LIVE_STATES, PENDING_STATES, Verb
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Selection
from relaypacs.model import Claim, Deferred, Delivered, Failed, Outcome, Scope, Settlement, State
from tests.unit.jobs.made import NODE, arrival, asked, discarded, resent

LEASE_SECONDS = 10.0
UIDS = ("1.1", "1.2", "1.3")


@dataclass
class Modelled:
    """What the model knows of one delivery."""

    uid: str
    state: State = State.QUEUED
    token: int = 0
    attempts: int = 0
    due_at: float = 0.0
    history: list[State] = field(default_factory=list)


class Deliveries(RuleBasedStateMachine):
    """One destination, one study, three instances; the clock only goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = JobStore.open(f"sqlite:///{self.folder.name}/jobs.sqlite")
        self.store.migrate()
        self.now = 100.0
        self.deliveries: list[Modelled] = []  # the delivery with id n is at n - 1
        self.claims: list[Claim] = []
        self.received = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def of(self, uid: str) -> list[Modelled]:
        return [one for one in self.deliveries if one.uid == uid]

    def owns(self, claim: Claim) -> Modelled | None:
        one = self.deliveries[claim.delivery_id - 1]
        return one if one.state is State.ACTIVE and one.token == claim.token else None

    def add(self, uid: str) -> None:
        for one in self.of(uid):
            if one.state is State.FAILED:
                one.state = State.DISCARDED
        self.deliveries.append(Modelled(uid))

    @rule(uid=st.sampled_from(UIDS), resend=st.sampled_from(["requeue", "suppress"]))
    def receive(self, uid: str, resend: str) -> None:
        taken = self.store.take_in(NODE, [arrival(uid, to=("pacs",), resend=resend)], [], [], self.now)
        self.received += 1
        known = self.of(uid)
        live = any(one.state in LIVE_STATES for one in known)
        if not known or (not live and resend == "requeue"):
            self.add(uid)
            assert taken.queued == {"pacs": 1}
        else:
            assert taken.queued == {}

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        batch = self.store.claim("pacs", node=NODE, limit=limit, lease_seconds=LEASE_SECONDS, now=self.now)
        ready = [
            one
            for one in self.deliveries
            if one.state is State.QUEUED or (one.state in (State.DEFERRED, State.ACTIVE) and one.due_at <= self.now)
        ]
        assert len(batch) == min(limit, len(ready))
        for claim in batch:
            one = self.deliveries[claim.delivery_id - 1]
            assert one in ready
            assert (claim.sop_instance_uid, claim.attempts, claim.token) == (one.uid, one.attempts, one.token + 1)
            one.state, one.token, one.due_at = State.ACTIVE, claim.token, self.now + LEASE_SECONDS
        self.claims += batch

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([Delivered(), Failed("no"), Deferred("wait", Scope.SITE)]),
        wait=st.one_of(st.none(), st.floats(0.0, 30.0)),
    )
    def settle(self, data: st.DataObject, outcome: Outcome, wait: float | None) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        retry_at = self.now + wait if wait is not None and isinstance(outcome, Deferred) else None
        one = self.owns(claim)
        took_effect = self.store.settle([Settlement(claim, outcome, self.now, self.now, retry_at)], self.now)
        assert took_effect == (one is not None)
        if one is not None:
            one.attempts += 1
            if isinstance(outcome, Delivered):
                one.state = State.DELIVERED
            elif retry_at is not None:
                one.state, one.due_at = State.DEFERRED, retry_at
            else:
                one.state = State.FAILED

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.store.give_back([claim])
        if one := self.owns(claim):
            one.state, one.due_at = (State.DEFERRED if one.attempts else State.QUEUED), self.now

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.store.renew([claim], lease_seconds=LEASE_SECONDS, now=self.now)
        if one := self.owns(claim):
            one.due_at = self.now + LEASE_SECONDS

    @rule(seconds=st.floats(0.0, 20.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def resend(self) -> None:
        known = {one.uid for one in self.deliveries}
        over = [uid for uid in known if not any(one.state in LIVE_STATES for one in self.of(uid))]
        again = resent(self.store, "1.2.3", "pacs", self.now)
        assert (again.changed, again.already_live) == (len(over), len(known) - len(over))
        # Queued in the order their instances were received.
        for row in self.store.trace("1.2.3"):
            if row.sop_instance_uid in over:
                self.add(row.sop_instance_uid)

    @rule()
    def discard(self) -> None:
        changed = discarded(self.store, "1.2.3", "pacs", self.now)
        given_up = [
            one for one in self.deliveries if one.state in (State.QUEUED, State.DEFERRED, State.HELD, State.FAILED)
        ]
        assert changed == len(given_up)
        for one in given_up:
            one.state = State.DISCARDED

    @rule()
    def hold(self) -> None:
        changed = asked(self.store, Verb.HOLD, Selection(), self.now).changed
        stopped = [one for one in self.deliveries if one.state in (State.QUEUED, State.DEFERRED)]
        assert changed == len(stopped)
        for one in stopped:
            one.state = State.HELD

    @rule()
    def release(self) -> None:
        changed = asked(self.store, Verb.RELEASE, Selection(states=frozenset({State.HELD})), self.now).changed
        held = [one for one in self.deliveries if one.state is State.HELD]
        assert changed == len(held)
        for one in held:
            one.state = State.QUEUED

    @rule()
    def retry(self) -> None:
        acted = asked(self.store, Verb.RETRY, Selection(destination="pacs"), self.now)
        waiting = [one for one in self.deliveries if one.state is State.DEFERRED and one.due_at > self.now]
        dead = [one for one in self.deliveries if one.state is State.FAILED]
        # One whose time has come may have been made ready already.
        assert len(waiting) + len(dead) <= acted.changed
        for one in self.deliveries:
            if one.state is State.DEFERRED:
                one.due_at = min(one.due_at, self.now)
        for one in dead:
            self.add(one.uid)

    @invariant()
    def the_rows_are_the_models(self) -> None:
        rows = {one.delivery_id: one for row in self.store.trace("1.2.3") for one in row.deliveries}
        assert [rows[number].state for number in sorted(rows)] == [one.state for one in self.deliveries]
        assert [rows[number].attempts for number in sorted(rows)] == [one.attempts for one in self.deliveries]

    @invariant()
    def the_ledger_balances(self) -> None:
        ledger = self.store.ledger()
        assert ledger.imbalance == 0
        assert (ledger.received, ledger.routed) == (self.received, len(self.deliveries))
        assert ledger.pending == sum(one.state in PENDING_STATES for one in self.deliveries)

    @invariant()
    def the_next_time_is_told(self) -> None:
        waiting = [one for one in self.deliveries if one.state in (State.DEFERRED, State.ACTIVE)]
        due = self.store.next_due("pacs", self.now)
        if any(one.state is State.QUEUED for one in self.deliveries):
            assert due == self.now
        elif waiting:
            assert due is not None
            assert max(due, self.now) == max(min(one.due_at for one in waiting), self.now)
        else:
            assert due is None


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

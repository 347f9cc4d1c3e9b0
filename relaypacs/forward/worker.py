"""A forward worker: one thread of one destination that claims a batch, has it delivered, and sleeps when idle.

Started by `dispatch`. Takes what intake has leased to it (`handover`) before it claims anything; sleeps until its
destination is woken or something is due; waits for a job table that is down; puts an exception in a sender (a bug) down
to one attempt and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from relaypacs import log
from relaypacs.config.model import Destination
from relaypacs.errors import JobsError
from relaypacs.failpoint import reach
from relaypacs.forward.batch import Batch
from relaypacs.forward.handover import LOOK_SECONDS, Handover
from relaypacs.forward.pace import Pace
from relaypacs.forward.sender import Sender, Trouble
from relaypacs.forward.settle import Leases, Settler
from relaypacs.forward.site import Site, Turn
from relaypacs.forward.source import ByteSource
from relaypacs.forward.studies import Sum
from relaypacs.model import Claim
from relaypacs.policy.retry import parse_schedule
from relaypacs.wake.protocol import Place, Wake, Windows

_LOOK_ANYWAY_SECONDS = 60.0
_LEAST_WAIT_SECONDS = 1.0
"""For work that is due and yet was not given out: another worker is at it, or it lies on another node."""
_JOBS_PAUSE_SECONDS = 1.0
_NO_PLACE_SECONDS = 0.2
"""How long a worker rests that has found the destination's window over all nodes full."""
_MOST_LOOKED_THROUGH = 1000
"""Claims in which one of another study is looked for; the others are given back."""
_NO_PLACE = Trouble("the destination's window over all nodes is full", opening=True)


class Callers(Protocol):
    """What forwarding needs of the association log (`jobs.associations.Book`)."""

    def calling_aes(self, association_ids: Iterable[str]) -> dict[str, str]:
        """Who opened these associations."""


class Jobs(Leases, Protocol):
    """What forwarding needs of the job table (`jobs.store.JobStore`)."""

    @property
    def associations(self) -> Callers:
        """The association log."""

    def ledger(self, *, study: str | None = None) -> Sum:
        """How a study's deliveries stand."""

    def claim(self, destination: str, *, node: str, limit: int, lease_seconds: float, now: float) -> list[Claim]:
        """Lease up to `limit` deliveries that are due."""

    def next_due(self, destination: str, now: float, *, node: str | None = None) -> float | None:
        """When a claim of `node` will next find something (seconds since the epoch), or None."""


class Worker:
    """`run` is the thread. Everything but the sender is shared with other workers."""

    def __init__(
        self,
        destination: Destination,
        *,
        number: int,
        sender: Sender,
        probe: Callable[[], Trouble | None],
        pace: Pace,
        site: Site,
        settler: Settler,
        jobs: Jobs,
        source: ByteSource,
        wake: Wake,
        windows: Windows,
        node: str,
        lease_seconds: float,
        stopping: threading.Event,
        handover: Handover,
        callers: dict[str, str] | None = None,
    ) -> None:
        """`number`: which of the destination's workers. `probe` asks the destination whether it answers at all.
        `callers`, if given, is filled for the sender: AE titles of those who sent what is claimed, by association."""
        self._callers = callers
        self.name = destination.name
        self._number = number
        self._probe = probe
        self._pace = pace
        self._limit = destination.batch_instances
        self._idle_seconds = destination.idle_seconds
        self._schedule = parse_schedule(destination.retry)
        self._sender = sender
        self._site = site
        self._settler = settler
        self._jobs = jobs
        self._source = source
        self._wake = wake
        self._windows = windows
        self._node = node
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._handover = handover
        self._puts = 0
        self._streaming = False
        """What it does comes from the handover: an empty one is waited for, the table not asked."""
        self._look = False
        self._moved: set[int] = set()
        self._resting = True
        self._place: Place | None = None
        self._due = False

    def run(self) -> None:
        """Work until the site is stopped; then release what is held at the destination."""
        while (turn := self._site.take_turn(self._number, self._rest)) is not None:
            if turn is Turn.PROBE:
                self._site.end_probe(self._number, self._survived(self._probe))
            elif turn is Turn.WIDEN:
                self._site.end_widen(self._number, self._survived(self._widen))
            elif not self._work(trial=turn is Turn.TRIAL) and not self._stopping.is_set():
                self._idle()
        self._sender.close()
        self._leave()

    def _enter(self) -> bool:
        """Whether this worker has a place in the destination's window; it keeps it while an association is open."""
        if self._place is None:
            self._place = self._windows.acquire(self.name, waits=self._due or not self._handover.is_empty)
            if self._place is None:
                self._stopping.wait(_NO_PLACE_SECONDS)
        return self._place is not None

    def _leave(self) -> None:
        if self._place is not None:
            self._windows.release(self._place)
            self._place = None

    def _rest(self) -> None:
        """Release what is held at the destination."""
        self._handover.empty()
        self._sender.rest()
        self._resting = True
        self._site.rested(self._number)
        self._leave()

    def _work(self, *, trial: bool) -> bool:
        """Claim and deliver; whether there was anything to do."""
        claims: list[Claim] = []
        trouble, answered, entered = None, False, True
        try:
            if entered := self._enter():
                claims = self._claim_for_trial() if trial else self._claim(self._limit)
                claims = self._with_callers(claims)
            if claims:
                with self._handover.working():
                    trouble, answered = self._deliver(claims, trial=trial)
        except Exception as bug:
            trouble = self._survive(bug)
        self._site.end_turn(
            self._number,
            trial=trial,
            trouble=trouble,
            answered=answered,
            full=len(claims) >= self._limit,
            nothing=entered and not claims,
            still_open=self._sender.is_open,
        )
        if trouble is not None:
            self._handover.empty()
        if self._place is not None and (self._place.overdue or (trouble is not None and self._place.counted)):
            self._rest()
        return bool(claims)

    def _claim_for_trial(self) -> list[Claim]:
        """One claim, if there is one of a study that is not suspected to be what is wrong."""
        suspects = self._site.suspects
        claims = self._claim_from_table(_MOST_LOOKED_THROUGH if suspects else 1)
        chosen = next((one for one in claims if one.study_instance_uid not in suspects), next(iter(claims), None))
        self._settler.give_back([one for one in claims if one is not chosen])
        return [] if chosen is None else [chosen]

    def _claim(self, limit: int) -> list[Claim]:
        """What was handed over, if there is any; else what is due in the table, if it may hold something. If that has
        to be looked at, neither waits for the other to be used up: what is urgent goes first, then what was there."""
        if not self._handover.must_look:
            if claims := self._handover.take(limit):
                reach("forward.claimed")
                self._streaming = True
                return claims
            if self._streaming and not self._look:
                return []
        self._look, told = False, self._handover.told
        claims = self._claim_from_table(limit)
        if not self._stopping.is_set():
            self._handover.looked(drained=len(claims) < limit, told=told)
        return self._handover.exchange(claims, limit)

    def _claim_from_table(self, limit: int) -> list[Claim]:
        told = False
        while not self._stopping.is_set():
            if not self._settler.wait_up(_JOBS_PAUSE_SECONDS):
                continue
            since = time.monotonic(), time.time()
            try:
                claims = self._jobs.claim(
                    self.name, node=self._node, limit=limit, lease_seconds=self._lease_seconds, now=since[1]
                )
            except JobsError as problem:
                if not told:
                    log.event(log.ERROR, "claim-waits", f"Forwarding waits: {problem}", destination=self.name)
                told = True
                self._stopping.wait(_JOBS_PAUSE_SECONDS)
            else:
                reach("forward.claimed")
                self._settler.hold(claims, since=since)
                return claims
        return []

    def _with_callers(self, claims: list[Claim]) -> list[Claim]:
        """These, once it is known who sent them, if it has to be: nothing goes under another title."""
        if self._callers is not None and claims:
            try:
                found = self._jobs.associations.calling_aes(one.association_id for one in claims)
            except JobsError:  # the settler says so
                self._settler.give_back(claims)
                self._stopping.wait(_JOBS_PAUSE_SECONDS)
                return []
            self._callers.clear()
            self._callers.update(found)
        return claims

    def _deliver(self, claims: list[Claim], *, trial: bool) -> tuple[Trouble | None, bool]:
        self._resting = False
        batch = Batch(
            claims,
            source=self._source,
            settler=self._settler,
            schedule=self._schedule,
            moved=self._moved,
            site=self._site,
            number=self._number,
            trial=trial,
            stopping=self._stopping.wait,
            pace=self._pace,
        )
        return batch.run(self._sender), batch.answered

    def _widen(self) -> Trouble | None:
        self._resting = False
        return self._sender.prepare() if self._enter() else _NO_PLACE

    def _survived(self, ask: Callable[[], Trouble | None]) -> Trouble | None:
        try:
            return ask()
        except Exception as bug:
            return self._survive(bug)

    def _survive(self, bug: Exception) -> Trouble:
        log.event(
            log.CRITICAL,
            "forward-bug",
            f"A forward worker failed ({type(bug).__name__}) and goes on: report this.",
            destination=self.name,
            place=_place(bug),
        )
        self._sender.close()
        return Trouble(f"this node failed while delivering ({type(bug).__name__}): see its log")

    def _idle(self) -> None:
        """Sleep until there may be work; an association that stays unused for `idle_seconds` is released."""
        if self._streaming:
            self._await_more()
            return
        try:
            now = time.time()
            due = self._jobs.next_due(self.name, now, node=self._node)
        except JobsError:
            due, now = 0.0, 0.0
        if not self._handover.is_empty:  # it has no place
            due = now
        if due is None:
            wait = _LOOK_ANYWAY_SECONDS
        else:
            wait = min(due - now, _LOOK_ANYWAY_SECONDS) if due > now else _LEAST_WAIT_SECONDS
        self._due = due is not None and due <= now
        if self._resting:
            self._leave()
        if self._resting or wait <= self._idle_seconds:
            self._wake.wait(self.name, wait)
        elif not self._wake.wait(self.name, self._idle_seconds):
            self._rest()

    def _await_more(self) -> None:
        """Wait for intake to hand over more; if somebody else rings, or nobody for a while, the table is asked."""
        if self._wake.wait(self.name, LOOK_SECONDS):
            puts, self._puts = self._puts, self._handover.puts
            self._look = puts == self._puts
        else:
            self._streaming, self._look = False, True


def _place(bug: BaseException) -> str:
    """File and line where an exception was raised: no values, so nothing of a patient."""
    frame = bug.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{frame.tb_frame.f_code.co_filename.rpartition('/')[2]}:{frame.tb_lineno}" if frame else ""

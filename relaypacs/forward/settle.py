"""What the forward workers hold: leases kept alive, outcomes settled in batches, unused claims given back.

One thread writes for all workers, so a burst of deliveries is one transaction. While the job table is down nothing is
lost: outcomes wait here, bounded (`outcome` blocks the worker), and are settled when it is back. What is still held
when the node dies comes back by its lease and is delivered again: at least once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from prometheus_client import Counter, Histogram

from relaypacs import log
from relaypacs.errors import JobsError
from relaypacs.failpoint import reach
from relaypacs.model import Claim, Deferred, Delivered, Failed, Outcome, Scope, Settlement

GATHER_SECONDS = 0.02
"""How long outcomes are gathered into one transaction: as many may repeat after a crash as end in it."""
_MOST_WAITING = 5000
_MOST_PER_TRANSACTION = 500
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0

_deliveries = Counter(
    "relaypacs_deliveries_total",
    "Deliveries that ended, by outcome: delivered, warning (delivered with one), deferred, failed (dead letter).",
    ["destination", "outcome"],
)
_delivery_seconds = Histogram(
    "relaypacs_delivery_seconds",
    "Time from an instance's first byte sent to its answer.",
    ["destination"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
_time_to_pacs_seconds = Histogram(
    "relaypacs_time_to_pacs_seconds",
    "Time from an instance being received (or queued anew) to the destination having it.",
    ["destination"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 86400, 7 * 86400),
)
_pacs_forward = Counter("pacs_forward_total", "Deliveries that ended, by kind of PACS.", ["pacs_type", "status"])


class Leases(Protocol):
    """What the settler needs of the job table (`jobs.store.JobStore`)."""

    def settle(self, settlements: Sequence[Settlement], now: float) -> int:
        """Write outcomes in one transaction; returns how many took effect."""

    def give_back(self, claims: Sequence[Claim]) -> None:
        """Return claims that were not tried."""

    def renew(self, claims: Sequence[Claim], *, lease_seconds: float, now: float) -> None:
        """Lengthen leases."""


class _Hold(NamedTuple):
    """A claim and its lease."""

    claim: Claim
    leased_at: float
    """Monotonic seconds, which go on while this process is stopped."""
    leased_at_by_clock: float
    """Seconds since the epoch, which go on while the machine sleeps."""
    lapsed: bool = False
    """Whether the lease was over once: another may have it since, whatever a renewal did."""

    def age(self, now: tuple[float, float]) -> float:
        """Seconds since it was leased."""
        return max(now[0] - self.leased_at, now[1] - self.leased_at_by_clock)


class _Work(NamedTuple):
    """The next thing to write. It stays waiting until it is written."""

    settlements: list[Settlement]
    returned: list[Claim]
    renewals: list[Claim]


class Settler:
    """The settling thread. After `start` any number of workers call `hold`, `outcome` and `give_back`."""

    def __init__(
        self,
        jobs: Leases,
        *,
        lease_seconds: float,
        kinds: Mapping[str, str],
        wake: Callable[[str], None],
        before: Callable[[Sequence[Settlement], float], None] = lambda _settlements, _now: None,
        ended: Callable[[Sequence[Settlement]], None] = lambda _settled: None,
    ) -> None:
        """`kinds`: kind of each destination, for metrics. `wake(destination)`: claims of it came back or have a time
        to be tried again. `before(settlements, now)`: these are about to be written; JobsError: not now.
        `ended(settlements)`: they are."""
        self._before, self._ended = before, ended
        self._jobs = jobs
        self._wake = wake
        self._lease_seconds = lease_seconds
        self._kinds = kinds
        self._changed = threading.Condition()
        self._settlements: list[Settlement] = []
        self._returned: list[Claim] = []
        self._held: dict[tuple[int, int], _Hold] = {}
        self._closing = False
        self._stop_trying_at = float("inf")
        self._down = False
        self._thread = threading.Thread(target=self._run, name="settle", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hold(self, claims: Sequence[Claim], *, since: tuple[float, float] | None = None) -> None:
        """A worker has just claimed these: renew their leases until they are settled or given back. `since`: when it
        asked for them (monotonic seconds, seconds since the epoch); now if it is not given."""
        leased_at, by_clock = since or _now()
        with self._changed:
            first = not self._held
            for claim in claims:
                self._held[_key(claim)] = _Hold(claim, leased_at, by_clock)
            if first:
                self._changed.notify_all()

    def holds(self, claims: Sequence[Claim]) -> bool:
        """Whether these are all held, by leases that were never over: nobody else can have begun them."""
        with self._changed:
            found = [self._held.get(_key(claim)) for claim in claims]
            return not any(hold is None or self._over(hold) for hold in found)

    def _over(self, hold: _Hold) -> bool:
        return hold.lapsed or hold.age(_now()) >= self._lease_seconds

    def outcome(self, settlement: Settlement) -> None:
        """Settle this soon. Waits while too much waits already."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._settlements) < _MOST_WAITING or self._closing)
            self._settlements.append(settlement)
            if len(self._settlements) in (1, _MOST_PER_TRANSACTION):
                self._changed.notify_all()

    def give_back(self, claims: Sequence[Claim]) -> None:
        """These were not tried: return them to the queue as they were."""
        if claims:
            with self._changed:
                self._returned.extend(claims)
                self._changed.notify_all()

    def wait_up(self, timeout_seconds: float) -> bool:
        """Wait until the job table takes settlements (at once if it does); False after `timeout_seconds`.

        And until no lease that is over waits to be renewed: who claimed then would be given what is held here, and may
        have been delivered.
        """
        with self._changed:
            if self._is_late():
                self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._down and not self._is_late(), timeout_seconds)

    def _is_late(self) -> bool:
        return any(hold.age(_now()) >= self._lease_seconds for hold in self._held.values())

    def close(self, timeout_seconds: float) -> bool:
        """Settle what waits and give back everything else that is held; False if that did not succeed in time."""
        with self._changed:
            self._closing = True
            self._stop_trying_at = time.monotonic() + timeout_seconds
            self._changed.notify_all()
        self._thread.join(timeout_seconds + 1.0)
        with self._changed:
            return not self._held

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while (work := self._next()) is not None:
            try:
                self._write(work)
            except Exception as problem:  # a bug here must not lose outcomes either
                self._tell(problem)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, pause)
                    if time.monotonic() + pause > self._stop_trying_at:
                        return
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._tell(None)
                pause = _FIRST_PAUSE_SECONDS

    def _next(self) -> _Work | None:
        """Wait for something to write and gather a little more; None when closed and nothing is left."""
        with self._changed:
            while True:
                due = self._due()
                if self._settlements or self._returned or due or self._closing:
                    break
                self._changed.wait(self._until_renewal())
            if self._settlements and not self._closing:
                self._changed.wait_for(
                    lambda: len(self._settlements) >= _MOST_PER_TRANSACTION or self._closing, GATHER_SECONDS
                )
            settlements = self._settlements[:_MOST_PER_TRANSACTION]
            if not self._closing:
                return _Work(settlements, list(self._returned), due)
            ended = {_key(one.claim) for one in self._settlements}
            unsettled = [hold.claim for key, hold in self._held.items() if key not in ended]
            return _Work(settlements, unsettled, []) if settlements or unsettled else None

    def _due(self) -> list[Claim]:
        """Claims whose lease has to be renewed by now: a third of it has gone."""
        now = _now()
        return [hold.claim for hold in self._held.values() if hold.age(now) >= self._lease_seconds / 3]

    def _until_renewal(self) -> float | None:
        if not self._held:
            return None
        oldest = min(hold.leased_at for hold in self._held.values())
        return max(oldest + self._lease_seconds / 3 - time.monotonic(), 0.0)

    def _write(self, work: _Work) -> None:
        if work.settlements:
            reach("forward.unsettled")
            now = time.time()
            self._before(work.settlements, now)
            lost = len(work.settlements) - self._jobs.settle(work.settlements, now)
            reach("forward.settled")
            with self._changed:
                del self._settlements[: len(work.settlements)]
                self._let_go([one.claim for one in work.settlements])
            self._ended(work.settlements)
            for settlement in work.settlements:
                if not (isinstance(settlement.outcome, Deferred) and settlement.outcome.scope is Scope.NODE):
                    _count(settlement, self._kinds[settlement.claim.destination])
            # A worker that went to sleep before this was written does not know when to try again.
            for destination in {one.claim.destination for one in work.settlements if one.retry_at is not None}:
                self._wake(destination)
            if lost and not self._down:  # else the first try may have been committed, and only its answer lost
                log.event(
                    log.WARNING, "leases-lost", "Deliveries ended after their lease had and repeat.", deliveries=lost
                )
        if work.returned:
            self._jobs.give_back(work.returned)
            with self._changed:
                gone = {_key(claim) for claim in work.returned}
                self._returned = [claim for claim in self._returned if _key(claim) not in gone]
                self._let_go(work.returned)
            for destination in {claim.destination for claim in work.returned}:
                self._wake(destination)
        if work.renewals:
            leased_at, by_clock = _now()
            self._jobs.renew(work.renewals, lease_seconds=self._lease_seconds, now=by_clock)
            with self._changed:
                for claim in work.renewals:
                    hold = self._held.get(_key(claim))
                    if hold is not None:
                        self._held[_key(claim)] = _Hold(claim, leased_at, by_clock, self._over(hold))

    def _let_go(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._held.pop(_key(claim), None)
        self._changed.notify_all()

    def _tell(self, problem: Exception | None) -> None:
        """Note whether the job table takes what we write; one log line per change."""
        with self._changed:
            changed, self._down = self._down != (problem is not None), problem is not None
            self._changed.notify_all()
        if not changed:
            return
        if problem is not None:
            why = str(problem) if isinstance(problem, JobsError) else type(problem).__name__
            log.event(log.ERROR, "settle-waits", f"Outcomes wait for the job table: {why}")
        else:
            log.event(log.INFO, "settle-resumed", "The job table takes outcomes again; none was lost.")


def _now() -> tuple[float, float]:
    """Monotonic seconds, seconds since the epoch."""
    return time.monotonic(), time.time()


def _key(claim: Claim) -> tuple[int, int]:
    return claim.delivery_id, claim.token


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Delivered):
        return "warning" if outcome.warning else "delivered"
    return "deferred" if isinstance(outcome, Deferred) else "failed"


def _count(settlement: Settlement, kind: str) -> None:
    """Metrics of a settled delivery, and the log line of one that failed for good."""
    claim, outcome = settlement.claim, settlement.outcome
    word = _word(outcome)
    _deliveries.labels(claim.destination, word).inc()
    _pacs_forward.labels(kind, "delivered" if word == "warning" else word).inc()
    seconds = max(settlement.finished_at - settlement.started_at, 0.0)
    if isinstance(outcome, Delivered):
        _delivery_seconds.labels(claim.destination).observe(seconds)
        _time_to_pacs_seconds.labels(claim.destination).observe(
            max(settlement.finished_at - claim.first_queued_at, 0.0)
        )
    if isinstance(outcome, Failed):
        log.event(
            log.ERROR,
            "delivery-failed",
            outcome.reason,
            trace_id=claim.association_id,
            upload_id=log.uid_hash(claim.study_instance_uid),
            latency_ms=seconds * 1000,
            destination=claim.destination,
            delivery=claim.delivery_id,
            instance=log.uid_hash(claim.sop_instance_uid),
            attempts=claim.attempts + 1,
        )

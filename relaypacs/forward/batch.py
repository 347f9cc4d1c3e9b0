"""One claimed batch on its way: hands out bytes, takes each outcome, and knows what was never tried.

Between a sender and the settler. Decides when a claim is tried again (by the destination's schedule) and when that has
an end; what the sender could not read is settled or given back here, so a sender only ever meets a peer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from relaypacs.errors import DigestMismatch, RelayPacsError, SegmentGone, StagingDown
from relaypacs.forward.pace import Pace
from relaypacs.forward.sender import Payload, Sender, Trouble, Unreadable
from relaypacs.forward.settle import Settler
from relaypacs.forward.site import Site
from relaypacs.forward.source import ByteSource
from relaypacs.model import Claim, Deferred, Delivered, Failed, Outcome, Scope, Settlement
from relaypacs.policy.outcome import CORRUPT, OUT_OF_RESOURCES_IN_A_ROW, out_of_resources
from relaypacs.policy.retry import JITTER, next_wait

_FREED_TWICE = Deferred("this node freed the instance's bytes twice before they were sent: see its log", Scope.INSTANCE)
Schedule = tuple[tuple[int, int], ...]
REST_SECONDS = 1.0
"""A longer wait for the destination's pace is spent without an association: peers end one that is unused."""


class Batch:
    """A batch of one worker. `moved` outlives it: deliveries given back once because their bytes had just moved."""

    def __init__(
        self,
        claims: Sequence[Claim],
        *,
        source: ByteSource,
        settler: Settler,
        schedule: Schedule,
        moved: set[int],
        site: Site,
        number: int,
        trial: bool,
        stopping: Callable[[float], bool],
        pace: Pace | None = None,
    ) -> None:
        """`number`: the worker's at `site`. `stopping(seconds)` waits so long for the order to stop."""
        self._claims = claims
        self._left = {claim.delivery_id: claim for claim in claims}
        self._opened: dict[int, Claim] = {}
        self._source = source
        self._settler = settler
        self._schedule = schedule
        self._moved = moved
        self._site = site
        self._number = number
        self._pace = pace or Pace()
        self._begins_at: dict[int, float] = {}
        """When the pace allows an instance (monotonic): each is charged once, also if it is sent again."""
        self._unsent: dict[int, int] = {}
        """Lengths of what is charged and was never handed out."""
        self._patience = 1 if trial else OUT_OF_RESOURCES_IN_A_ROW
        self._short_in_a_row = 0
        self._short_of: set[str] = set()
        self._stopping = stopping
        self.answered = False
        """Whether the destination decided on any instance."""

    def run(self, sender: Sender) -> Trouble | None:
        """Deliver it; whatever was not reported is given back. Returns the destination's trouble.

        An exception of the sender is a bug in it: raised again, after what it had open was put off by one attempt, so
        that an instance that triggers a bug can't do so for ever.
        """
        try:
            trouble: Trouble | None = sender.deliver(self._claims, self.read, self.report, self.proceed)
        except Exception as bug:
            now = time.time()
            reason = Deferred(f"this node failed ({type(bug).__name__}): see its log", Scope.INSTANCE)
            for claim in list(self._opened.values()) or self._claims[:1]:
                if claim.delivery_id in self._left:
                    self._settle(claim, reason, now, now)
            raise
        else:
            if trouble is not None and trouble.opening and self._left and self._site.alone(self._number):
                # People look for the reason in a row; where others are open it is a matter of the window alone.
                now = time.time()
                self._settle(next(iter(self._left.values())), Deferred(trouble.reason, Scope.SITE), now, now)
        finally:
            for length in self._unsent.values():
                self._pace.give_back(length)
            self._settler.give_back(list(self._left.values()))
        if trouble is None and self._short_in_a_row >= self._patience:
            sentence = "destination is out of resources for one instance after another: check its disk and log"
            study = next(iter(self._short_of)) if len(self._short_of) == 1 else ""
            trouble = Trouble(sentence, study=study)
        return trouble

    def proceed(self, claims: Sequence[Claim], rest: Callable[[], None]) -> bool:
        """Whether to go on to these claims, once the destination's pace allows. A wait that a peer might take for
        an idle association is spent after `rest`."""
        if not self._goes_on(claims):
            return False
        begins_at = self._charge(claims)
        wait = begins_at - time.monotonic()
        if wait <= 0:
            return True
        if wait > REST_SECONDS:
            rest()
        return not self._stopping(max(begins_at - time.monotonic(), 0.0)) and self._goes_on(claims)

    def _goes_on(self, claims: Sequence[Claim]) -> bool:
        """Also not if the leases were over once, as after this process was stopped: others may be at it."""
        may = self._short_in_a_row < self._patience and not self._stopping(0.0) and self._site.within_hours()
        return may and self._settler.holds(claims)

    def _charge(self, claims: Sequence[Claim]) -> float:
        """Charge the pace for those that were not yet; when they may begin (monotonic seconds)."""
        if not self._pace.limited:
            return 0.0
        for claim in claims:
            if claim.delivery_id not in self._begins_at:
                length = self._unsent[claim.delivery_id] = claim.location.dataset_length
                self._begins_at[claim.delivery_id] = time.monotonic() + self._pace.take(length)
        return min(self._begins_at[claim.delivery_id] for claim in claims)

    def report(self, claim: Claim, outcome: Outcome, started_at: float, finished_at: float) -> None:
        """A claim's outcome, once, with its times (seconds since the epoch)."""
        if outcome is CORRUPT and self._source.is_freed(claim):
            # This process slept, and what it read has become another's: given back, and a new claim says where it is.
            if claim.delivery_id not in self._moved:
                self._moved.add(claim.delivery_id)
                return
            outcome = _FREED_TWICE
        self.answered |= not (isinstance(outcome, Deferred) and outcome.scope is Scope.SITE)
        study = claim.study_instance_uid
        if isinstance(outcome, Deferred) and out_of_resources(outcome.status):
            if not self._site.is_poison(study):
                self._short_in_a_row += 1
                self._short_of.add(study)
        else:
            self._short_in_a_row = 0
            self._short_of.clear()
            if isinstance(outcome, Delivered):
                self._site.accepted(study)
        self._settle(claim, outcome, started_at, finished_at)

    @contextmanager
    def read(self, claim: Claim) -> Iterator[Payload]:
        """The claim's bytes. Raises Unreadable when they can't be had, which is then settled or given back."""
        with ExitStack() as stack:
            try:
                payload = stack.enter_context(self._source.read(claim))
            except SegmentGone:
                # It was staged since it was claimed: a new claim says where. Once; then it counts as an attempt.
                if claim.delivery_id in self._moved:
                    self._unreadable(claim, _FREED_TWICE)
                else:
                    self._moved.add(claim.delivery_id)
                raise Unreadable from None
            except DigestMismatch:
                self._unreadable(claim, CORRUPT)
                raise Unreadable from None
            except StagingDown as problem:
                self._unreadable(claim, Deferred(f"waits for its bytes: {problem}", Scope.NODE))
                raise Unreadable from None
            except (RelayPacsError, OSError) as problem:
                reason = f"this node can't read the instance now ({type(problem).__name__}): check spool and staging"
                self._unreadable(claim, Deferred(reason, Scope.INSTANCE))
                raise Unreadable from None
            self._opened[claim.delivery_id] = claim
            self._unsent.pop(claim.delivery_id, None)
            yield payload
        self._opened.pop(claim.delivery_id, None)

    def _unreadable(self, claim: Claim, outcome: Outcome) -> None:
        now = time.time()
        self._settle(claim, outcome, now, now)

    def _settle(self, claim: Claim, outcome: Outcome, started_at: float, finished_at: float) -> None:
        self._left.pop(claim.delivery_id)
        self._moved.discard(claim.delivery_id)
        retry_at = None
        if isinstance(outcome, Deferred) and outcome.scope is Scope.NODE:
            retry_at = finished_at + self._source.away_seconds() * (1 + JITTER * random.random())
        elif isinstance(outcome, Deferred):
            wait = next_wait(self._schedule, claim.attempts + 1, random.random)
            if wait is None:
                outcome = Failed(f"given up after {claim.attempts + 1} attempts: {outcome.reason}", outcome.status)
            else:
                retry_at = finished_at + wait
        self._settler.outcome(Settlement(claim, outcome, started_at, finished_at, retry_at))

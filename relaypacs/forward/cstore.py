"""C-STORE to one destination: contexts chosen from what the batch holds, the association kept between batches.

A `forward.sender.Sender` around a `Lane`. As many objects are under way as the destination granted (asynchronous
operations), each settled by its own answer. An instance the destination has no context for fails with a sentence that
says what to configure; anything that is not an answer is the destination's trouble.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from relaypacs.config.destination import ORIGINAL
from relaypacs.config.model import Destination
from relaypacs.forward.checksum import Corrupt
from relaypacs.forward.lane import Address, Lane, ended_by_peer, sentence
from relaypacs.forward.memory import Memory, Pair
from relaypacs.forward.names import spoken
from relaypacs.forward.sender import Proceed, Read, Report, Trouble, Unreadable
from relaypacs.forward.tls import client_tls
from relaypacs.model import Claim, Deferred, Delivered, Failed, Scope
from relaypacs.policy.aetitle import is_ae_title
from relaypacs.policy.outcome import CORRUPT, no_context, refused_kind, store_outcome
from relaypacs.upper.errors import UpperError

_PREPARE_SECONDS = 2.0
"""How long another association may take: a peer that takes one at a time leaves the next one waiting, unanswered."""


class CStoreSender:
    """A `forward.sender.Sender` over C-STORE."""

    def __init__(
        self,
        destination: Destination,
        calling_ae: str,
        memory: Memory | None = None,
        callers: Mapping[str, str] | None = None,
    ) -> None:
        """`calling_ae` is presented if the destination configures none; `memory` is the destination's; `callers`
        has the AE titles of those who sent, by association id, for `calling_ae = "original"`."""
        own = "" if destination.calling_ae == ORIGINAL else destination.calling_ae
        self._response_timeout_seconds = destination.response_timeout_seconds
        self._memory = memory or Memory()
        self._address = Address(
            destination.host,
            destination.port,
            calling_ae=own or calling_ae,
            called_ae=destination.called_ae,
            connect_timeout_seconds=destination.connect_timeout_seconds,
            response_timeout_seconds=destination.response_timeout_seconds,
            tls=client_tls(destination),
            max_operations=destination.max_operations,
        )
        self._original = destination.calling_ae == ORIGINAL
        self._callers = {} if callers is None else callers
        self._lane = Lane(self._address, self._memory)

    def deliver(self, batch: Sequence[Claim], read: Read, report: Report, proceed: Proceed) -> Trouble | None:
        """See `Sender`. In order, but what the open association has contexts for goes first."""
        self._lane.check()
        pending = list(batch)
        flying: dict[int, tuple[Claim, float]] = {}
        again = False

        def rest() -> None:
            while flying:
                self._settle(flying, report)
            self._lane.release()

        while True:
            chosen = self._choose(pending, flying, most=1 if again else self._lane.window) if pending else None
            try:
                if chosen is not None and not proceed([chosen], rest):
                    pending.clear()
                    chosen = None
                if chosen is None and not flying:
                    return None
                if chosen is None:
                    self._settle(flying, report)
                    again = False
                    continue
                if not self._fits(chosen):
                    problem = self._open(chosen, pending)
                    if problem is not None:
                        return problem
                pending.remove(chosen)
                self._send(chosen, flying, read, report)
            except Corrupt:
                # The association was ended by us in the middle of it; what was under way has no answer.
                pending[:0] = [claim for claim, _ in flying.values()]
                flying.clear()
            except UpperError as trouble:
                if ended_by_peer(trouble) and not again:
                    # Some peers end an association between two objects on purpose: once, one at a time, on a new one.
                    again = True
                    pending[:0] = [claim for claim, _ in flying.values()]
                    flying.clear()
                    continue
                reason = self._sentence(trouble)
                for claim, started in flying.values():
                    report(claim, Deferred(reason, Scope.SITE), started, time.time())
                return Trouble(reason)

    def prepare(self) -> Trouble | None:
        """Associate for what was of use before, if anything was."""
        self._lane.check()
        if self._lane.is_open or self._original or not (recent := self._memory.recent()):
            return None
        at = self._address
        lane = Lane(
            replace(at, connect_timeout_seconds=min(at.connect_timeout_seconds, _PREPARE_SECONDS)), self._memory
        )
        try:
            lane.open(recent)
        except UpperError as problem:
            return Trouble(self._sentence(problem), opening=True)
        self._lane, lane.address = lane, at
        return None

    @property
    def is_open(self) -> bool:
        """Whether an association is open."""
        return self._lane.is_open

    def rest(self) -> None:
        """Release the association."""
        self._lane.release()

    def close(self) -> None:
        """Release the association."""
        self._lane.release()

    def _choose(self, pending: Sequence[Claim], flying: dict[int, tuple[Claim, float]], *, most: int) -> Claim | None:
        """What to send next, or None while an answer has to be waited for."""
        if len(flying) >= most:
            return None
        fitting = next((one for one in pending if self._fits(one)), None)
        return fitting or (None if flying else pending[0])

    def _fits(self, claim: Claim) -> bool:
        """Whether the open association will do: by what it negotiated, and by who we said we are."""
        return self._lane.proposed(_pair(claim)) and self._calling_ae(claim) == self._lane.address.calling_ae

    def _calling_ae(self, claim: Claim) -> str:
        """Who we say we are: ourselves, or the one who sent the instance, if that is an AE title."""
        if not self._original:
            return self._address.calling_ae
        title = self._callers.get(claim.association_id, "")
        return title if is_ae_title(title) else self._address.calling_ae

    def _open(self, first: Claim, pending: Sequence[Claim]) -> Trouble | None:
        title = self._calling_ae(first)
        if title != self._lane.address.calling_ae:
            self._lane.release()
            self._lane = Lane(replace(self._address, calling_ae=title), self._memory)
        try:
            self._lane.open(_pair(one) for one in pending if self._calling_ae(one) == title)
        except UpperError as problem:
            return Trouble(self._sentence(problem), opening=True)
        return None

    def _send(self, claim: Claim, flying: dict[int, tuple[Claim, float]], read: Read, report: Report) -> None:
        """Send it, or report at once what can't be sent. Raises UpperError, and Corrupt after it was reported."""
        pair, started = _pair(claim), time.time()
        if not self._lane.accepted(pair):
            report(claim, _no_context(pair), started, time.time())
            return
        message_id = self._lane.next_message_id()
        try:
            with read(claim) as payload:
                flying[message_id] = claim, started
                self._lane.send(message_id, pair, claim.sop_instance_uid, payload.dataset, payload.crc32c)
        except Unreadable:
            return
        except Corrupt:
            del flying[message_id]
            report(claim, CORRUPT, started, time.time())
            raise

    def _settle(self, flying: dict[int, tuple[Claim, float]], report: Report) -> None:
        """Wait for one answer and report it. Raises UpperError."""
        message_id, status = self._lane.answer(flying)
        claim, started = flying.pop(message_id)
        outcome = store_outcome(status)
        if isinstance(outcome, Delivered):
            self._memory.stored(_pair(claim))
        elif refused_kind(status):
            self._memory.refused_by_status(_pair(claim))
        report(claim, outcome, started, time.time())

    def _sentence(self, problem: UpperError) -> str:
        return sentence(problem, response_timeout_seconds=self._response_timeout_seconds)


def _no_context(pair: Pair) -> Failed:
    return no_context(spoken(pair[0]), spoken(pair[1]))


def _pair(claim: Claim) -> Pair:
    return claim.sop_class_uid, claim.transfer_syntax_uid

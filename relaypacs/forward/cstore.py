"""C-STORE to one destination: contexts chosen from what the batch holds, the association kept between batches.

A `forward.sender.Sender` around a `Lane`. An instance the destination has no context for fails with a sentence that
says what to configure; anything that is not an answer is the destination's trouble.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from relaypacs.config.model import Destination
from relaypacs.forward.checksum import Corrupt
from relaypacs.forward.lane import Address, Lane, Pair, sentence
from relaypacs.forward.names import spoken
from relaypacs.forward.sender import Read, Report, Trouble, Unreadable
from relaypacs.forward.tls import client_tls
from relaypacs.model import Claim, Deferred, Outcome, Scope
from relaypacs.policy.outcome import CORRUPT, no_context, store_outcome
from relaypacs.upper.errors import UpperError


class CStoreSender:
    """A `forward.sender.Sender` over C-STORE."""

    def __init__(self, destination: Destination, calling_ae: str) -> None:
        """`calling_ae` is presented if the destination configures none."""
        self._response_timeout_seconds = destination.response_timeout_seconds
        self._lane = Lane(
            Address(
                destination.host,
                destination.port,
                calling_ae=destination.calling_ae or calling_ae,
                called_ae=destination.called_ae,
                connect_timeout_seconds=destination.connect_timeout_seconds,
                response_timeout_seconds=destination.response_timeout_seconds,
                tls=client_tls(destination),
            )
        )

    def deliver(
        self, batch: Sequence[Claim], read: Read, report: Report, proceed: Callable[[], bool]
    ) -> Trouble | None:
        """See `Sender`. In order, but what the open association has contexts for goes first."""
        self._lane.check()
        pending = list(batch)
        while pending and proceed():
            claim = next((one for one in pending if self._lane.proposed(_pair(one))), pending[0])
            started = time.time()
            try:
                if not self._lane.proposed(_pair(claim)):
                    self._lane.open(map(_pair, pending))
                outcome = self._store(claim, read)
            except UpperError as problem:
                reason = sentence(problem, response_timeout_seconds=self._response_timeout_seconds)
                report(claim, Deferred(reason, Scope.SITE), started, time.time())
                return Trouble(reason)
            pending.remove(claim)
            if outcome is not None:
                report(claim, outcome, started, time.time())
        return None

    def rest(self) -> None:
        """Release the association."""
        self._lane.release()

    def close(self) -> None:
        """Release the association."""
        self._lane.release()

    def _store(self, claim: Claim, read: Read) -> Outcome | None:
        """The claim's outcome, or None if its bytes can't be read. Raises UpperError."""
        pair = _pair(claim)
        if not self._lane.accepted(pair):
            return no_context(spoken(claim.sop_class_uid), spoken(claim.transfer_syntax_uid))
        try:
            with read(claim) as payload:
                status = self._lane.store(pair, claim.sop_instance_uid, payload.dataset, payload.crc32c)
        except Unreadable:
            return None
        except Corrupt:
            return CORRUPT
        if status is None:
            return no_context(spoken(claim.sop_class_uid), spoken(claim.transfer_syntax_uid))
        return store_outcome(status)


def _pair(claim: Claim) -> Pair:
    return claim.sop_class_uid, claim.transfer_syntax_uid

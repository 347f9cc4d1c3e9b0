"""The C-STORE send lane: one association to one peer, objects out of mapped files, statuses back (PS3.7 9.1.1).

Used by `cstore` (the forward workers) and `send` (the command line). Command set, P-DATA-TF headers and fragments go
out gathered, straight from the caller's memory; the stored transfer syntax has a presentation context of its own.
After anything but a clean answer the association is aborted and never used again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from relaypacs.dicom.command import C_STORE_RSP, encode_store_request
from relaypacs.dicom.pdu import message_buffers
from relaypacs.failpoint import reach
from relaypacs.forward.checksum import Corrupt, checked
from relaypacs.policy.outcome import rejected, unreachable
from relaypacs.upper.association import Requested, associate
from relaypacs.upper.errors import (
    AnswerTimeout,
    AssociationAborted,
    AssociationRejected,
    ConnectFailed,
    ConnectionLost,
    PeerBroken,
    PeerReleased,
    UpperError,
)
from relaypacs.upper.tls import ClientTls, TlsFailed

MOST_CONTEXTS = 128
"""Odd context ids 1-255 (PS3.8 9.3.2.2)."""
_LAST_MESSAGE_ID = 0xFFFF

Pair = tuple[str, str]
"""Abstract syntax (SOP class) and transfer syntax, as UIDs."""


@dataclass(frozen=True, slots=True)
class Address:
    """A DIMSE peer and how long to wait for it."""

    host: str
    port: int
    calling_ae: str
    called_ae: str
    connect_timeout_seconds: float
    response_timeout_seconds: float
    tls: ClientTls | None = None


class Lane:
    """At most one association at a time. For one thread."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._association: Requested | None = None
        self._proposed: frozenset[Pair] = frozenset()
        self._recent: dict[Pair, None] = {}
        self._message_id = 0

    def proposed(self, pair: Pair) -> bool:
        """Whether the association has negotiated this pair, with whatever result."""
        return self._association is not None and pair in self._proposed

    def accepted(self, pair: Pair) -> bool:
        """Whether the peer took the pair, so that `store` sends."""
        return self._association is not None and pair in self._association.accepted

    def check(self) -> None:
        """Drop an association that the peer has ended while it was unused."""
        if self._association is not None and not self._association.is_open:
            self.abort()

    def open(self, pairs: Iterable[Pair]) -> None:
        """Release what is open and associate for `pairs` (the first 128), and as many used before as there is room.

        Raises UpperError.
        """
        self.release()
        wanted = dict.fromkeys(pairs) | self._recent
        proposed = list(wanted)[:MOST_CONTEXTS]
        at = self._address
        self._association = associate(
            at.host,
            at.port,
            calling_ae=at.calling_ae,
            called_ae=at.called_ae,
            contexts=[(sop_class, (syntax,)) for sop_class, syntax in proposed],
            connect_timeout_seconds=at.connect_timeout_seconds,
            response_timeout_seconds=at.response_timeout_seconds,
            tls=at.tls,
        )
        reach("forward.associated")
        self._proposed = frozenset(proposed)
        self._recent = dict.fromkeys(proposed)

    def store(self, pair: Pair, sop_instance: str, dataset: memoryview, crc32c: int | None) -> int | None:
        """Send one object in a proposed `pair` and return the peer's status (PS3.4 B.2.3), or None if it did not
        accept the pair.

        `crc32c` of the dataset is compared before its last fragment leaves (None: not checked). A peer may end an
        association between two objects (some do so on purpose): once, it is tried again on a new one.
        Raises Corrupt, or UpperError when there is no answer; then the association is gone.
        """
        if not self.accepted(pair):
            return None
        try:
            return self._store(pair, sop_instance, dataset, crc32c)
        except PeerBroken:
            raise
        except AssociationAborted:
            self.open([pair])
        return self._store(pair, sop_instance, dataset, crc32c) if self.accepted(pair) else None

    def _store(self, pair: Pair, sop_instance: str, dataset: memoryview, crc32c: int | None) -> int:
        association = self._association
        if association is None:
            raise ConnectionLost("there is no association")
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        command = encode_store_request(self._message_id, pair[0], sop_instance)
        buffers = message_buffers(association.accepted[pair], command, dataset, association.peer_max_pdu_bytes)
        try:
            association.send_buffers(buffers if crc32c is None else checked(buffers, dataset, crc32c))
            reach("forward.sent")
            answer = association.read_message()
            reach("forward.answered")
            if answer.field != C_STORE_RSP or answer.responded_to != self._message_id or answer.status is None:
                raise PeerBroken("the answer is no C-STORE-RSP to what was sent")
        except (UpperError, Corrupt):
            self.abort()
            raise
        return answer.status

    def release(self) -> None:
        """Release the association, if there is one."""
        if self._association is not None:
            association, self._association = self._association, None
            association.release()

    def abort(self) -> None:
        """Abort the association, if there is one."""
        if self._association is not None:
            association, self._association = self._association, None
            association.abort()


def sentence(problem: UpperError, *, response_timeout_seconds: float) -> str:
    """What an association's failure means and where to mend it, without the peer's words."""
    if isinstance(problem, AssociationRejected):
        return rejected(problem.result, problem.source, problem.reason)
    if isinstance(problem, AnswerTimeout) and problem.requesting:
        return "destination took the connection and did not answer the association request in time: check its load"
    if isinstance(problem, AnswerTimeout):
        return (
            f"destination was silent for up to {response_timeout_seconds:g} s while an answer was owed, so the "
            "association was aborted: check its load"
        )
    if isinstance(problem, PeerBroken):
        return "destination broke the DICOM protocol, so the association was aborted: is this a DICOM port?"
    if isinstance(problem, ConnectionLost | PeerReleased):
        return "destination closed the association before it answered: see its log"
    if isinstance(problem, AssociationAborted):
        return f"destination aborted the association ({problem.source}/{problem.reason}): see its log"
    if isinstance(problem, ConnectFailed) and isinstance(problem.__cause__, TlsFailed):
        return f"no TLS with the destination: {problem.__cause__}"
    if isinstance(problem, ConnectFailed) and isinstance(problem.__cause__, OSError):
        return unreachable(problem.__cause__)
    return "destination closed the connection at once: is this a DICOM port, and does it allow our address?"

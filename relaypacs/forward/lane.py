"""The C-STORE send lane: one association to one peer, objects out of mapped files, statuses back (PS3.7 9.1.1).

Used by `cstore` (the forward workers) and `send` (the command line). Command set, P-DATA-TF headers and fragments go
out gathered, straight from the caller's memory; the stored transfer syntax has a presentation context of its own.
After anything but a clean answer the association is aborted and never used again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from relaypacs.dicom.command import C_STORE_RSP, encode_store_request
from relaypacs.dicom.message import message_groups
from relaypacs.dicom.pdu import MAX_CONTEXTS
from relaypacs.failpoint import reach
from relaypacs.forward.checksum import Corrupt, checked
from relaypacs.forward.memory import Memory, Pair
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

_LAST_MESSAGE_ID = 0xFFFF


@dataclass(frozen=True, slots=True)
class Address:
    """A DIMSE peer and how long to wait for it; `max_operations` as in `upper.association.associate`."""

    host: str
    port: int
    calling_ae: str
    called_ae: str
    connect_timeout_seconds: float
    response_timeout_seconds: float
    tls: ClientTls | None = None
    max_operations: int = 1


class Lane:
    """At most one association at a time. For one thread."""

    def __init__(self, address: Address, memory: Memory | None = None) -> None:
        """`memory`: what is known of the peer, shared with other lanes to it."""
        self.address = address
        self._memory = memory or Memory()
        self._association: Requested | None = None
        self._proposed: frozenset[Pair] = frozenset()
        self._message_id = 0

    @property
    def is_open(self) -> bool:
        """Whether there is an association."""
        return self._association is not None

    @property
    def window(self) -> int:
        """How many objects may be under way at once (PS3.7 D.3.3.3): what was granted, of what we want."""
        return 1 if self._association is None else self._association.operations

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
        wanted = dict.fromkeys(pairs) | dict.fromkeys(self._memory.recent())
        proposed = list(wanted)[:MAX_CONTEXTS]
        at = self.address
        self._association = associate(
            at.host,
            at.port,
            calling_ae=at.calling_ae,
            called_ae=at.called_ae,
            contexts=[(sop_class, (syntax,)) for sop_class, syntax in proposed],
            connect_timeout_seconds=at.connect_timeout_seconds,
            response_timeout_seconds=at.response_timeout_seconds,
            max_operations=at.max_operations,
            tls=at.tls,
        )
        reach("forward.associated")
        self._proposed = frozenset(proposed)
        self._memory.proposed(proposed, self._association.accepted)

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
        except UpperError as problem:
            if not ended_by_peer(problem):
                raise
            self.open([pair])
        return self._store(pair, sop_instance, dataset, crc32c) if self.accepted(pair) else None

    def _store(self, pair: Pair, sop_instance: str, dataset: memoryview, crc32c: int | None) -> int:
        message_id = self.next_message_id()
        self.send(message_id, pair, sop_instance, dataset, crc32c)
        return self.answer((message_id,))[1]

    def next_message_id(self) -> int:
        """1 to 65535, then from the start: 128 objects at most are under way at once."""
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        return self._message_id

    def send(self, message_id: int, pair: Pair, sop_instance: str, dataset: memoryview, crc32c: int | None) -> None:
        """Send one object in an accepted `pair`; its answer is owed. Raises as `store`."""
        association = self._association
        if association is None:
            raise ConnectionLost("there is no association")
        command = encode_store_request(message_id, pair[0], sop_instance)
        groups = message_groups(association.accepted[pair], command, dataset, association.peer_max_pdu_bytes)
        try:
            association.send_groups(groups if crc32c is None else checked(groups, dataset, crc32c))
            reach("forward.sent")
        except (UpperError, Corrupt):
            self.abort()
            raise

    def answer(self, owed: Collection[int]) -> tuple[int, int]:
        """The next answer: to which of the message ids that are `owed` one, and its status. Raises as `store`."""
        association = self._association
        if association is None:
            raise ConnectionLost("there is no association")
        try:
            answer = association.read_message()
            reach("forward.answered")
            message_id, status = answer.responded_to, answer.status
            if answer.field != C_STORE_RSP or message_id is None or message_id not in owed or status is None:
                raise PeerBroken("the answer is no C-STORE-RSP to what was sent")
        except UpperError:
            self.abort()
            raise
        return message_id, status

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


def ended_by_peer(problem: UpperError) -> bool:
    """Whether the peer ended the association, as some do on purpose between two objects; not that it lied or hung."""
    return isinstance(problem, AssociationAborted) and not isinstance(problem, PeerBroken)


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

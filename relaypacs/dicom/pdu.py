"""The PDUs of PS3.8 section 9.3 that we read and write byte by byte, and the fragments inside P-DATA-TF.

Used by `upper` (every byte of an association passes `PduWalker`) and by the lanes on both sides. Pure: bytes in,
views and bytes out. What a peer did wrong is a `PduError` that carries the reason of the A-ABORT it deserves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

# PDU types, PS3.8 9.3.1
A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = range(1, 8)
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1

HEADER = struct.Struct(">BxI")  # PDU type, PDU length
_PDV = struct.Struct(">IBB")  # PDV length, presentation context id, message control header: PS3.8 9.3.5.1, E.2
PDATA_PDV = struct.Struct(">BxIIBB")  # a PDU header and that of its first PDV
_NO_HEADER = (0, 0, 0, 0, 0)
ITEM = struct.Struct(">BxH")  # item type, item length: PS3.8 9.3.2
HEADER_BYTES = 6
ASSOCIATE_FIXED_BYTES = 68  # of an A-ASSOCIATE-RQ or -AC behind the header, PS3.8 tables 9-11 and 9-17
MAX_CONTEXTS = 128  # odd ids 1-255, PS3.8 7.1.1.13
PDV_OVERHEAD_BYTES = 6
SMALLEST_MAX_PDU_BYTES = 128
"""A peer that takes less than this in one PDU can't be talked to (PS3.8 D.1 sets no bound; real ones take 4 KiB)."""
LENGTH_IF_NONE = 16384
"""What is taken for the Maximum Length of a peer that doesn't say it, though PS3.7 D.3.3.1 demands it: everybody
takes that."""

COMMAND, LAST = 0x01, 0x02  # bits of the message control header, PS3.8 E.2
MAX_FRAGMENTS = 512
"""Views collected before `PduWalker.walk` pauses, so that one-byte PDVs can't be turned into memory."""


MAX_EMPTY_FRAGMENTS = 256
"""One behind the other; nobody needs any, and looking at them without end would hold everybody else up."""


class AbortReason(IntEnum):
    """Reason of an A-ABORT whose source is the service provider (PS3.8 9.3.8)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER = 6


class PduError(Exception):
    """The peer broke PS3.8. `reason` is what the A-ABORT says; the message is a sentence without the peer's data."""

    def __init__(self, reason: AbortReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Stop(IntEnum):
    """Why `PduWalker.walk` returned."""

    MORE = 0
    """Every whole thing was consumed: read more bytes."""
    LAST = 1
    """The last fragment of the command set or dataset was consumed."""
    OTHER = 2
    """A PDU that is no P-DATA-TF begins here."""
    FULL = 3
    """`MAX_FRAGMENTS` are collected: use them and call again."""


class PduWalker:
    """Finds the fragments of one command set or dataset in a stream of P-DATA-TF PDUs, wherever TCP cut it.

    Call `expect_command()` or `expect_dataset(context_id)`, then `walk` with what was received until it says LAST.
    State is a few numbers: no PDU is ever needed whole.
    """

    __slots__ = (
        "_command",
        "_empty",
        "_left_in_pdu",
        "_left_in_pdv",
        "_max_pdu_bytes",
        "_pdv_is_last",
        "_started",
        "context_id",
    )

    def __init__(self, max_pdu_bytes: int) -> None:
        """`max_pdu_bytes`: the Maximum Length Received that we announced (PS3.8 D.1)."""
        self._max_pdu_bytes = max_pdu_bytes
        self._left_in_pdu = 0
        self._left_in_pdv = 0
        self._pdv_is_last = False
        self._command = COMMAND
        self._started = False
        self._empty = 0
        self.context_id = 0

    @property
    def between_pdus(self) -> bool:
        """Whether the next byte is the first of a PDU."""
        return self._left_in_pdu == 0

    @property
    def started(self) -> bool:
        """Whether a fragment of what is expected has begun."""
        return self._started

    def expect_command(self) -> None:
        """A command set comes next, in whichever presentation context its first fragment names."""
        self._command, self._started, self._empty = COMMAND, False, 0

    def expect_dataset(self, context_id: int) -> None:
        """A dataset in this presentation context comes next."""
        self._command, self._started, self._empty, self.context_id = 0, True, 0, context_id

    def walk(self, view: memoryview, start: int, end: int, fragments: list[memoryview]) -> tuple[int, Stop]:
        """Append to `fragments` the views found in `view[start:end]`.

        Returns how far it got (bytes before that are done with) and why it stopped; at MORE fewer than six bytes can
        be left. Raises `PduError` for lengths that lie, PDUs longer than announced and fragments out of order.
        """
        position = start
        in_pdu, in_pdv = self._left_in_pdu, self._left_in_pdv
        header, stride = _NO_HEADER, 0
        try:
            while True:
                if in_pdv:
                    take = end - position
                    if take <= 0:
                        return position, Stop.MORE
                    take = min(take, in_pdv)
                    fragments.append(view[position : position + take])
                    position += take
                    in_pdv -= take
                    in_pdu -= take
                    if in_pdv:
                        return position, Stop.MORE
                    if self._pdv_is_last:
                        return position, Stop.LAST
                    if len(fragments) >= MAX_FRAGMENTS:
                        return position, Stop.FULL
                    if stride:
                        # Most PDUs of a dataset look like the one before: one PDV each, as long, not the last.
                        while end - position >= stride and PDATA_PDV.unpack_from(view, position) == header:
                            fragments.append(view[position + PDATA_PDV.size : position + stride])
                            position += stride
                            if len(fragments) >= MAX_FRAGMENTS:
                                return position, Stop.FULL
                if end - position < HEADER_BYTES:  # a PDV's header is as long as a PDU's
                    return position, Stop.MORE
                if in_pdu == 0:
                    kind, in_pdu = HEADER.unpack_from(view, position)
                    if kind != P_DATA_TF:
                        in_pdu = 0
                        return position, Stop.OTHER
                    if in_pdu > self._max_pdu_bytes:
                        raise PduError(AbortReason.INVALID_PARAMETER, "a P-DATA-TF is longer than we announced")
                    position += HEADER_BYTES
                    continue
                length, context_id, control = _PDV.unpack_from(view, position)
                if length < 2 or length + 4 > in_pdu:
                    raise PduError(AbortReason.INVALID_PARAMETER, "the length of a PDV does not fit its PDU")
                if not self._started and control & COMMAND:
                    self.context_id, self._started = context_id, True
                elif control & COMMAND != self._command or context_id != self.context_id:
                    raise PduError(AbortReason.UNEXPECTED_PDU, "a fragment belongs to no message that was begun")
                position += PDV_OVERHEAD_BYTES
                in_pdu -= PDV_OVERHEAD_BYTES
                in_pdv = length - 2
                self._pdv_is_last = bool(control & LAST)
                header = (P_DATA_TF, in_pdu + PDV_OVERHEAD_BYTES, length, context_id, control)
                stride = PDATA_PDV.size + in_pdu if in_pdv == in_pdu else 0
                if in_pdv == 0:
                    if self._pdv_is_last:
                        return position, Stop.LAST
                    self._empty += 1
                    if self._empty > MAX_EMPTY_FRAGMENTS:
                        raise PduError(AbortReason.INVALID_PARAMETER, "fragment after fragment holds nothing")
                else:
                    self._empty = 0
        finally:
            self._left_in_pdu, self._left_in_pdv = in_pdu, in_pdv


def check_other(kind: int, length: int, *, associated: bool, max_associate_bytes: int) -> None:
    """Whether the body of a PDU that is no P-DATA-TF may be read: known type, acceptable now, length within bounds.

    `associated`: an association is open, so A-ASSOCIATE PDUs have no place. Raises `PduError`.
    """
    if not A_ASSOCIATE_RQ <= kind <= A_ABORT:
        raise PduError(AbortReason.UNRECOGNIZED_PDU, "a PDU of unknown type")
    if kind == P_DATA_TF:
        raise PduError(AbortReason.UNEXPECTED_PDU, "a P-DATA-TF without an association")
    if kind in (A_ASSOCIATE_RQ, A_ASSOCIATE_AC):
        if associated:
            raise PduError(AbortReason.UNEXPECTED_PDU, "an A-ASSOCIATE PDU on an open association")
        if length > max_associate_bytes:
            raise PduError(AbortReason.INVALID_PARAMETER, "an A-ASSOCIATE PDU is too long")
    elif length != 4:  # PS3.8 9.3.4, 9.3.6, 9.3.7, 9.3.8: fixed
        raise PduError(AbortReason.INVALID_PARAMETER, "a PDU of fixed length has another one")


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return HEADER.pack(A_ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def abort_pdu(source: int, reason: int) -> bytes:
    """An A-ABORT (PS3.8 9.3.8): source 0 the user, 2 the provider; the reason counts for the provider only."""
    return HEADER.pack(A_ABORT, 4) + bytes((0, 0, source, reason))


def whole_request(received: bytearray, max_bytes: int) -> int:
    """How many bytes the A-ASSOCIATE-RQ at the start of `received` takes, or 0 while some are missing.

    Raises `PduError` as soon as it can be no A-ASSOCIATE-RQ of at most `max_bytes`.
    """
    if len(received) < HEADER_BYTES:
        return 0
    kind, length = HEADER.unpack_from(received)
    check_other(kind, length, associated=False, max_associate_bytes=max_bytes)
    if kind != A_ASSOCIATE_RQ:
        raise PduError(AbortReason.UNEXPECTED_PDU, "the first PDU is no A-ASSOCIATE-RQ")
    return HEADER_BYTES + length if len(received) >= HEADER_BYTES + length else 0


@dataclass(frozen=True, slots=True)
class AssociateHead:
    """What admission reads of an A-ASSOCIATE-RQ before anything is built from it (PS3.8 9.3.2).

    AE titles are the sixteen bytes as sent. `application_context` is empty where the item is missing.
    """

    protocol_version: int
    called_ae: bytes
    calling_ae: bytes
    application_context: str
    contexts: bytes
    """The presentation context items, one behind the other, as they came."""
    rest: bytes
    """The body without them: the fixed part and every other item."""


def read_associate_head(body: bytes) -> AssociateHead:
    """Read the fixed part of an A-ASSOCIATE-RQ body (after the six header bytes), and tell its items apart.

    Raises `PduError` where it is shorter than its fixed part, an item reaches past its end, or a 129th
    presentation context is proposed.
    """
    if len(body) < ASSOCIATE_FIXED_BYTES:
        raise PduError(AbortReason.INVALID_PARAMETER, "an A-ASSOCIATE-RQ is shorter than its fixed part")
    application_context = ""
    contexts, others = [], []
    for kind, start, end in items(body, ASSOCIATE_FIXED_BYTES, len(body)):
        if kind == 0x20:
            contexts.append(body[start - 4 : end])
            if len(contexts) > MAX_CONTEXTS:
                raise PduError(AbortReason.INVALID_PARAMETER, "more than 128 presentation contexts are proposed")
        else:
            others.append(body[start - 4 : end])
            if kind == 0x10:
                application_context = body[start:end].decode("ascii", "replace").strip(" \0")
    return AssociateHead(
        struct.unpack_from(">H", body)[0],
        body[4:20],
        body[20:36],
        application_context,
        b"".join(contexts),
        body[:ASSOCIATE_FIXED_BYTES] + b"".join(others),
    )


def items(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The items or sub-items in `data[start:end]` (PS3.8 9.3.1): type, and where the value begins and ends.

    Raises `PduError` where one reaches past the end.
    """
    while start < end:
        if start + 4 > end:
            raise PduError(AbortReason.INVALID_PARAMETER, "an item of an A-ASSOCIATE PDU is cut")
        kind, length = ITEM.unpack_from(data, start)
        start += 4 + length
        if start > end:
            raise PduError(AbortReason.INVALID_PARAMETER, "an item of an A-ASSOCIATE PDU reaches past its end")
        yield kind, start - length, start


def associate_rq_without_contexts(head: AssociateHead, calling_ae: str, called_ae: str) -> bytes:
    """The A-ASSOCIATE-RQ that was read, with these AE titles (at most 16 characters each) and no contexts."""
    titles = called_ae.encode("ascii", "replace").ljust(16) + calling_ae.encode("ascii", "replace").ljust(16)
    body = head.rest[:4] + titles + head.rest[36:]
    return HEADER.pack(A_ASSOCIATE_RQ, len(body)) + body


def associate_ac_with_contexts(pdu: bytes, context_items: bytes) -> bytes:
    """An encoded A-ASSOCIATE-AC without presentation contexts, with these behind its application context."""
    place = HEADER_BYTES + ASSOCIATE_FIXED_BYTES
    place += 4 + int(ITEM.unpack_from(pdu, place)[1])
    body = pdu[HEADER_BYTES:place] + context_items + pdu[place:]
    return HEADER.pack(A_ASSOCIATE_AC, len(body)) + body


def associate_ac_with_titles(pdu: bytes, calling_ae: str, called_ae: str) -> bytes:
    """An encoded A-ASSOCIATE-AC with these AE titles (at most 16 characters), which it repeats (PS3.8 9.3.3)."""
    titles = called_ae.encode("ascii", "replace").ljust(16) + calling_ae.encode("ascii", "replace").ljust(16)
    return pdu[:10] + titles + pdu[42:]

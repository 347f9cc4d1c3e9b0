"""Which presentation contexts we take (PS3.8 9.3.3.2, PS3.7 D.3.3): the pure half of negotiation as acceptor.

Used by `upper` when somebody associates with us. The proposer's order decides the transfer syntax of each context by
itself, so what a modality stores is what it sends; pynetdicom's own negotiation would choose by our order, and once
per abstract syntax.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    NonPatientObjectPresentationContexts,
    PresentationContext,
)

from relaypacs.dicom.pdu import AbortReason, PduError
from relaypacs.dicom.pdu import items as walk_items

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
# PS3.8 table 9-18
ACCEPTANCE, USER_REJECTION, PROVIDER_REJECTION = 0, 1, 2
ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 3, 4
_ANSWER = struct.Struct(">BxHBxBxBxH")  # a context item and the head of its only sub-item, PS3.8 table 9-18
_LONGEST_UID_BYTES = 256  # with blanks around, which some send; 64 without
_REMEMBERED_BYTES = 64 << 10
"""Longer lists of contexts than this are negotiated anew each time, so that hostile ones take no memory."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node takes: storage SOP classes with transfer syntaxes, and Verification."""

    storage: frozenset[str]
    transfer_syntaxes: frozenset[str]
    max_transfer_syntaxes: int = 128
    """More of them in one context are refused (result 2), whatever they are."""
    denied: frozenset[str] = frozenset()
    """Abstract syntaxes that others may use here (result 1)."""
    limited: frozenset[tuple[str, frozenset[str]]] = frozenset()
    """Storage SOP classes with fewer transfer syntaxes than the others, which may be none."""

    def takes(self, abstract_syntax: str) -> frozenset[str]:
        """The transfer syntaxes for an abstract syntax; empty if it is not supported, or denied."""
        if abstract_syntax in self.denied:
            return frozenset()
        if abstract_syntax in self.storage:
            return _limits(self.limited).get(abstract_syntax, self.transfer_syntaxes)
        return _VERIFICATION_SYNTAXES if abstract_syntax == VERIFICATION else frozenset()


@functools.lru_cache(maxsize=64)
def _limits(limited: frozenset[tuple[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    return dict(limited)


_VERIFICATION_SYNTAXES = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN))


def storage_offer(
    transfer_syntaxes: Iterable[str] = (), private_sop_classes: Iterable[str] = (), max_transfer_syntaxes: int = 128
) -> Offer:
    """Every storage SOP class of pynetdicom (PS3.4 B.5, and GG.3: color palettes, implant templates and the like) and
    the private ones given, with these transfer syntaxes (none given: every one pynetdicom knows), of which a context
    may propose so many."""
    storage = (*AllStoragePresentationContexts, *NonPatientObjectPresentationContexts)
    known = (str(context.abstract_syntax) for context in storage)
    return Offer(
        frozenset((*known, *private_sop_classes)),
        frozenset(transfer_syntaxes) or frozenset(ALL_TRANSFER_SYNTAXES),
        max_transfer_syntaxes,
    )


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one proposed context. A transfer syntax that was not accepted is not significant."""

    context_id: int
    abstract_syntax: str
    result: int
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The answer to every proposed context; `items` are those of the A-ASSOCIATE-AC (PS3.8 9.3.3.2)."""

    accepted: tuple[Answered, ...]
    rejected: tuple[Answered, ...]
    items: bytes

    def presentation_contexts(self) -> dict[int, PresentationContext]:
        """The accepted ones as pynetdicom's acceptor keeps them, by their ids."""
        return {one.context_id: _presentation_context(one) for one in self.accepted}


def negotiate(items: bytes, offer: Offer) -> Negotiated:
    """Answer the presentation context items of an A-ASSOCIATE-RQ: one transfer syntax each, or why not.

    The accepted ones come first, by their ids, as pynetdicom orders them. A modality proposes the same list every
    time, so answers are remembered by its bytes. Raises `PduError` where the list is broken.
    """
    return _remembered(items, offer) if len(items) <= _REMEMBERED_BYTES else _negotiate(items, offer)


def _negotiate(items: bytes, offer: Offer) -> Negotiated:
    accepted, rejected = [], []
    seen = set()
    for context_id, abstract_syntax, transfer_syntaxes in read_proposals(items, offer.max_transfer_syntaxes):
        if context_id in seen:  # PS3.8 7.1.1.13
            raise PduError(AbortReason.INVALID_PARAMETER, "a presentation context id is proposed twice")
        seen.add(context_id)
        if transfer_syntaxes is None:
            rejected.append(Answered(context_id, abstract_syntax, PROVIDER_REJECTION, IMPLICIT_VR_LITTLE_ENDIAN))
            continue
        syntaxes = offer.takes(abstract_syntax)
        chosen = next((syntax for syntax in transfer_syntaxes if syntax in syntaxes), None)
        if chosen is not None:
            accepted.append(Answered(context_id, abstract_syntax, ACCEPTANCE, chosen))
        else:
            known = syntaxes or abstract_syntax in offer.storage
            result = TRANSFER_SYNTAXES_NOT_SUPPORTED if known else ABSTRACT_SYNTAX_NOT_SUPPORTED
            if abstract_syntax in offer.denied:
                result = USER_REJECTION
            # Not significant, but the item must hold one.
            one = next(iter(transfer_syntaxes), IMPLICIT_VR_LITTLE_ENDIAN)
            rejected.append(Answered(context_id, abstract_syntax, result, one))
    accepted.sort(key=lambda one: one.context_id)
    return Negotiated(tuple(accepted), tuple(rejected), b"".join(map(_item, [*accepted, *rejected])))


_remembered = functools.lru_cache(maxsize=64)(_negotiate)


def read_proposals(items: bytes, max_transfer_syntaxes: int) -> Iterator[tuple[int, str, list[str] | None]]:
    """Context id, abstract syntax and transfer syntaxes of presentation context items (PS3.8 9.3.2.2).

    The transfer syntaxes are None where there are too many. Sub-items of unknown type are skipped (PS3.8 9.3.1).
    Raises `PduError` where an item is cut, an id is not odd, a UID is no text of at most 64 characters, or the
    abstract syntax is missing.
    """
    for _, start, end in walk_items(items, 0, len(items)):
        if end - start < 4 or not items[start] & 1:
            raise PduError(AbortReason.INVALID_PARAMETER, "a presentation context has no odd id")
        abstract_syntax: str | None = None
        transfer_syntaxes: list[str] = []
        count = 0
        for kind, first, last in walk_items(items, start + 4, end):
            if kind == 0x30:
                abstract_syntax = _uid(items, first, last)
            elif kind == 0x40:
                count += 1
                if count > max_transfer_syntaxes:
                    break
                if syntax := _uid(items, first, last):
                    transfer_syntaxes.append(syntax)
        if abstract_syntax is None:
            raise PduError(AbortReason.INVALID_PARAMETER, "a presentation context has no abstract syntax")
        yield items[start], abstract_syntax, transfer_syntaxes if count <= max_transfer_syntaxes else None


def _uid(data: bytes, start: int, end: int) -> str:
    if end > start and data[end - 1] == 0:
        end -= 1  # a UID needs no padding here (PS3.8 annex F), but some pad
    if end - start > _LONGEST_UID_BYTES:
        raise PduError(AbortReason.INVALID_PARAMETER, "a UID of a presentation context is too long")
    try:
        uid = data[start:end].decode("ascii").strip()
    except UnicodeDecodeError:
        raise PduError(AbortReason.INVALID_PARAMETER, "a UID of a presentation context is no ASCII") from None
    if len(uid) > 64:
        raise PduError(AbortReason.INVALID_PARAMETER, "a UID of a presentation context is too long")
    return uid


def _item(answer: Answered) -> bytes:
    uid = answer.transfer_syntax.encode("ascii")
    return _ANSWER.pack(0x21, 8 + len(uid), answer.context_id, answer.result, 0x40, len(uid)) + uid


def _presentation_context(answer: Answered) -> PresentationContext:
    context = PresentationContext()
    context.context_id = answer.context_id
    context.abstract_syntax = UID(answer.abstract_syntax)
    context._transfer_syntax = [UID(answer.transfer_syntax)]
    context.result = answer.result
    context._as_scu, context._as_scp = False, True
    return context

"""Which presentation contexts we take (PS3.8 9.3.3.2, PS3.7 D.3.3): the pure half of negotiation as acceptor.

Used by `upper` when somebody associates with us. The proposer's order decides the transfer syntax of each context by
itself, so what a modality stores is what it sends; pynetdicom's own negotiation would choose by our order, and once
per abstract syntax.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydicom.uid import UID
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext

from relaypacs.dicom.pdu import AbortReason, PduError

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
ACCEPTANCE, ABSTRACT_SYNTAX_NOT_SUPPORTED, TRANSFER_SYNTAXES_NOT_SUPPORTED = 0, 3, 4  # PS3.8 table 9-18


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node takes: storage SOP classes with transfer syntaxes, and Verification."""

    storage: frozenset[str]
    transfer_syntaxes: frozenset[str]

    def takes(self, abstract_syntax: str) -> frozenset[str]:
        """The transfer syntaxes for an abstract syntax; empty if it is not supported."""
        if abstract_syntax in self.storage:
            return self.transfer_syntaxes
        return _VERIFICATION_SYNTAXES if abstract_syntax == VERIFICATION else frozenset()


_VERIFICATION_SYNTAXES = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN))


def storage_offer(transfer_syntaxes: Iterable[str] = (), private_sop_classes: Iterable[str] = ()) -> Offer:
    """Every storage SOP class of pynetdicom and the private ones given, with these transfer syntaxes (none given:
    every one pynetdicom knows)."""
    known = (str(context.abstract_syntax) for context in AllStoragePresentationContexts)
    return Offer(
        frozenset((*known, *private_sop_classes)),
        frozenset(transfer_syntaxes) or frozenset(ALL_TRANSFER_SYNTAXES),
    )


def negotiate(proposed: Sequence[PresentationContext], offer: Offer) -> list[PresentationContext]:
    """The answer to each proposed context, in its order: accepted with one transfer syntax, or result 3 or 4.

    Raises `PduError` where a context id is used twice (PS3.8 7.1.1.13).
    """
    answers = []
    seen = set()
    for context in proposed:
        if context.context_id in seen:
            raise PduError(AbortReason.INVALID_PARAMETER, "a presentation context id is proposed twice")
        seen.add(context.context_id)
        answer = PresentationContext()
        answer.context_id = context.context_id
        answer.abstract_syntax = context.abstract_syntax
        answer._as_scu, answer._as_scp = False, False
        syntaxes = offer.takes(str(context.abstract_syntax))
        chosen = next((syntax for syntax in context.transfer_syntax if syntax in syntaxes), None)
        if chosen is not None:
            answer.result, answer._as_scp = ACCEPTANCE, True
        else:
            answer.result = TRANSFER_SYNTAXES_NOT_SUPPORTED if syntaxes else ABSTRACT_SYNTAX_NOT_SUPPORTED
            # Not significant, but the item must hold one.
            chosen = next(iter(context.transfer_syntax), UID(IMPLICIT_VR_LITTLE_ENDIAN))
        answer._transfer_syntax = [chosen]
        answers.append(answer)
    return answers

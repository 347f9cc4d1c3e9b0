"""Negotiation as acceptor, beside pynetdicom's."""

from __future__ import annotations

import pytest
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
    negotiate_as_acceptor,
)

from relaypacs.dicom.contexts import negotiate, storage_offer
from relaypacs.dicom.pdu import PduError

CT, MR, VERIFICATION = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


def proposed(*contexts: tuple[int, str, list[str]]) -> list[PresentationContext]:
    found = []
    for number, abstract_syntax, syntaxes in contexts:
        context = build_context(abstract_syntax, syntaxes)
        context.context_id = number
        found.append(context)
    return found


def results(answers: list[PresentationContext]) -> list[tuple[object, ...]]:
    return [(one.context_id, str(one.abstract_syntax), one.result, str(one.transfer_syntax[0])) for one in answers]


def test_the_proposer_decides_context_by_context() -> None:
    asked = proposed((1, CT, [JPEG, EXPLICIT]), (3, CT, [EXPLICIT, JPEG]), (5, MR, ["1.2.3", IMPLICIT]))
    assert results(negotiate(asked, storage_offer())) == [(1, CT, 0, JPEG), (3, CT, 0, EXPLICIT), (5, MR, 0, IMPLICIT)]


def test_refusals() -> None:
    asked = proposed((1, CT, [JPEG]), (3, "1.2.3", [EXPLICIT]), (5, VERIFICATION, [JPEG]), (7, "1.2.9", [EXPLICIT]))
    offer = storage_offer([EXPLICIT], ["1.2.9"])
    assert [one.result for one in negotiate(asked, offer)] == [4, 3, 4, 0]


def test_with_one_syntax_each_it_is_pynetdicoms_negotiation() -> None:
    asked = proposed((1, CT, [EXPLICIT]), (3, MR, [JPEG]), (5, "1.2.3", [IMPLICIT]), (7, VERIFICATION, [IMPLICIT]))
    supported = [
        build_context(str(one.abstract_syntax), [IMPLICIT, EXPLICIT]) for one in AllStoragePresentationContexts
    ]
    theirs, _ = negotiate_as_acceptor(asked, [*supported, build_context(VERIFICATION, [IMPLICIT])])
    ours = negotiate(asked, storage_offer([IMPLICIT, EXPLICIT]))
    assert results(ours) == results(theirs)
    assert [(one.as_scu, one.as_scp) for one in ours] == [(one.as_scu, one.as_scp) for one in theirs]


def test_a_context_id_used_twice_is_an_error() -> None:
    with pytest.raises(PduError):
        negotiate(proposed((1, CT, [EXPLICIT]), (1, MR, [EXPLICIT])), storage_offer())


def test_every_storage_class_is_offered() -> None:
    offer = storage_offer()
    assert all(offer.takes(str(one.abstract_syntax)) for one in AllStoragePresentationContexts)
    assert JPEG in offer.takes(CT)
    assert JPEG not in offer.takes(VERIFICATION)

"""What is offered to a caller follows from what its possible destinations take; nothing is narrowed on a guess."""

from __future__ import annotations

from typing import Any

import pytest

from relaypacs.config.model import Destination, Rule
from relaypacs.dicom.contexts import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    ACCEPTANCE,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    VERIFICATION,
    Offer,
    negotiate,
    storage_offer,
)
from relaypacs.policy.takers import Refused, Takers
from tests.peers.raw import CT, EXPLICIT, IMPLICIT, MR, item

JPEG_LS = "1.2.840.10008.1.2.4.80"
OFFER = storage_offer()
EVERYTHING = OFFER.transfer_syntaxes


def destination(name: str, *syntaxes: str, classes: tuple[str, ...] = ()) -> Destination:
    return Destination(
        name=name, kind="dimse", host="h", called_ae="A", transfer_syntaxes=syntaxes, sop_classes=classes
    )


def offer_of(
    rules: list[dict[str, Any]],
    destinations: list[Destination],
    *,
    default: tuple[str, ...] = (),
    calling: str = "CT_1",
    called: str = "RELAYPACS",
    refused: Refused | None = None,
    fold: bool = False,
) -> Offer:
    found = [Rule(name=f"r{number}", **rule) for number, rule in enumerate(rules)]
    takers = Takers(found, default, destinations, ae_titles_case_sensitive=not fold, refused=refused)
    return takers.narrow(OFFER, calling, called)


PLAIN = destination("plain", IMPLICIT, EXPLICIT)
ANY = destination("any")


def test_nothing_known_is_everything() -> None:
    assert offer_of([{"to": ("any",)}], [ANY], default=("any",)) is OFFER
    assert offer_of([], []) is OFFER


@pytest.mark.parametrize("where", [{"rules": [{"to": ("plain",)}]}, {"rules": [], "default": ("plain",)}])
def test_what_its_only_destination_takes(where: dict[str, Any]) -> None:
    offer = offer_of(where["rules"], [PLAIN, ANY], default=where.get("default", ()))
    assert offer.takes(CT) == {IMPLICIT, EXPLICIT}
    assert offer.takes(VERIFICATION) == OFFER.takes(VERIFICATION)


def test_one_destination_that_takes_it_is_enough() -> None:
    assert offer_of([{"to": ("plain", "any")}], [PLAIN, ANY]).takes(CT) == EVERYTHING
    ls = destination("ls", JPEG_LS)
    assert offer_of([{"to": ("plain",)}, {"to": ("ls",)}], [PLAIN, ls]).takes(CT) == {IMPLICIT, EXPLICIT, JPEG_LS}


@pytest.mark.parametrize(
    ("rule", "narrowed"),
    [
        ({"calling_ae": "CT_*"}, True),
        ({"calling_ae": "MR_*"}, False),
        ({"calling_ae": "ct_*"}, False),
        ({"called_ae": "RELAY*"}, True),
        ({"called_ae": "OTHER"}, False),
        ({"modality": "SR"}, True),
        ({"tags": {"StationName": "X"}}, True),
        ({"sop_class": "CT Image Storage"}, True),
        ({"sop_class": MR}, False),
    ],
)
def test_a_rule_that_may_match_counts(rule: dict[str, Any], narrowed: bool) -> None:
    offer = offer_of([{**rule, "to": ("plain",)}], [PLAIN])
    assert offer.takes(CT) == ({IMPLICIT, EXPLICIT} if narrowed else EVERYTHING)


def test_titles_are_compared_as_reception_does() -> None:
    assert offer_of([{"calling_ae": "ct_*", "to": ("plain",)}], [PLAIN], fold=True).takes(CT) == {IMPLICIT, EXPLICIT}


def test_the_default_counts_unless_a_rule_matches_for_certain() -> None:
    maybe = [{"modality": "CT", "to": ("plain",)}]
    assert offer_of(maybe, [PLAIN, ANY], default=("any",)).takes(CT) == EVERYTHING
    assert offer_of([{"to": ("plain",)}], [PLAIN, ANY], default=("any",)).takes(CT) == {IMPLICIT, EXPLICIT}


def test_what_is_dropped_for_certain_may_be_anything() -> None:
    drop = {"sop_class": CT, "drop": True}
    offer = offer_of([{"to": ("plain",)}, drop], [PLAIN])
    assert offer.takes(CT) == EVERYTHING
    assert offer.takes(MR) == {IMPLICIT, EXPLICIT}
    offer = offer_of([{"to": ("plain",)}, {**drop, "modality": "CT"}], [PLAIN])
    assert offer.takes(CT) == {IMPLICIT, EXPLICIT}


def test_sop_classes_by_name_uid_or_pattern() -> None:
    few = destination("few", classes=("CT *", "Enhanced CT*", MR))
    offer = offer_of([{"to": ("few",)}], [few])
    assert offer.takes(CT) == offer.takes(MR) == EVERYTHING
    assert offer.takes("1.2.840.10008.5.1.4.1.1.2.1") == EVERYTHING
    assert offer.takes("1.2.840.10008.5.1.4.1.1.7") == frozenset()


def test_what_was_refused_is_not_offered_where_it_can_go_nowhere_else() -> None:
    refused = {"any": {(CT, JPEG_LS)}, "gone": {(MR, JPEG_LS)}}
    alone = offer_of([{"to": ("any",)}], [ANY], refused=refused)
    assert alone.takes(CT) == EVERYTHING - {JPEG_LS}
    assert alone.takes(MR) == EVERYTHING
    assert offer_of([{"to": ("any", "more")}], [ANY, destination("more")], refused=refused).takes(CT) == EVERYTHING


def test_what_the_caller_may_not_use_stays_so() -> None:
    offer = Offer(frozenset((CT,)), frozenset((EXPLICIT, JPEG_LS)), denied=frozenset((MR,)))
    narrowed = Takers([Rule(name="r", to=("plain",))], (), [PLAIN]).narrow(offer, "A", "B")
    assert narrowed.takes(CT) == {EXPLICIT}
    assert narrowed.takes(MR) == frozenset()
    assert narrowed.denied == offer.denied


def test_hostile_titles_take_no_memory() -> None:
    takers = Takers([Rule(name="r", calling_ae="A*", to=("plain",))], (), [PLAIN])
    offers = {id(takers.narrow(OFFER, f"A{number}", f"B{number}")) for number in range(500)}
    assert len(offers) == 1


def proposal(context_id: int, sop_class: str, *syntaxes: str) -> bytes:
    value = item(0x30, sop_class.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
    return item(0x20, bytes((context_id, 0, 0, 0)) + value)


def test_negotiation_says_why_and_keeps_the_modalitys_order() -> None:
    offer = offer_of([{"to": ("ct",)}], [destination("ct", EXPLICIT, IMPLICIT, classes=(CT,))])
    answers = negotiate(
        proposal(1, CT, JPEG_LS, IMPLICIT, EXPLICIT) + proposal(3, CT, JPEG_LS) + proposal(5, MR, EXPLICIT), offer
    )
    assert [(one.context_id, one.result, one.transfer_syntax) for one in answers.accepted] == [
        (1, ACCEPTANCE, IMPLICIT)
    ]
    assert {one.context_id: one.result for one in answers.rejected} == {
        3: TRANSFER_SYNTAXES_NOT_SUPPORTED,
        5: ABSTRACT_SYNTAX_NOT_SUPPORTED,
    }

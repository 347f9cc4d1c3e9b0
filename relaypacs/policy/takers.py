"""What a caller's possible destinations take, so that nothing is accepted which only becomes a dead letter. Pure.

`receive` narrows a caller's offer with it when an association is requested. Nothing known of a destination means that
it takes everything, and a caller whose objects go nowhere yet is offered everything: nothing is narrowed on a guess.
A condition that only an object's dataset can answer (modality, tags) counts as possible.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from relaypacs.dicom.contexts import Offer
from relaypacs.dicom.uid import uid_names
from relaypacs.policy.pattern import Pattern, compile_pattern
from relaypacs.policy.routing import RoutingRule

Refused = Mapping[str, Collection[tuple[str, str]]]
"""By destination, the (SOP class, transfer syntax) pairs it has refused: what forwarding learns."""


class Taker(Protocol):
    """What is needed of a `[[destination]]` (`config.Destination` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def transfer_syntaxes(self) -> tuple[str, ...]: ...
    @property
    def sop_classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class _Rule:
    calling_ae: Pattern
    called_ae: Pattern
    sop_class: Pattern
    certain: bool
    """Whether nothing of a dataset is asked."""
    to: tuple[str, ...]
    drop: bool


@dataclass(frozen=True, slots=True)
class _Taker:
    transfer_syntaxes: frozenset[str]
    sop_classes: tuple[Pattern, ...]
    refused: frozenset[tuple[str, str]]

    def takes(self, sop_class: str, transfer_syntaxes: frozenset[str]) -> frozenset[str] | None:
        """Which of these it takes for a SOP class; None if it doesn't take that class at all."""
        if self.sop_classes and not any(_names_match(one, sop_class) for one in self.sop_classes):
            return None
        found = transfer_syntaxes & self.transfer_syntaxes if self.transfer_syntaxes else transfer_syntaxes
        return frozenset(one for one in found if (sop_class, one) not in self.refused) if self.refused else found


class Takers:
    """The rules and destinations, compiled. ValueError for a pattern that the configuration's check would refuse."""

    def __init__(
        self,
        rules: Sequence[RoutingRule],
        default: Sequence[str],
        destinations: Sequence[Taker],
        *,
        ae_titles_case_sensitive: bool = True,
        refused: Refused | None = None,
    ) -> None:
        fold = not ae_titles_case_sensitive
        self._rules = [
            _Rule(
                compile_pattern(one.calling_ae or "*", ignore_case=fold),
                compile_pattern(one.called_ae or "*", ignore_case=fold),
                compile_pattern(one.sop_class or "*"),
                not (one.modality or one.tags),
                one.to,
                one.drop,
            )
            for one in rules
        ]
        self._default = frozenset(default)
        learned = refused or {}
        self._takers = {
            one.name: _Taker(
                frozenset(one.transfer_syntaxes),
                tuple(compile_pattern(pattern) for pattern in one.sop_classes),
                frozenset(learned.get(one.name, ())),
            )
            for one in destinations
        }
        self._anything = not any(
            one.transfer_syntaxes or one.sop_classes or one.refused for one in self._takers.values()
        )
        # By rules, not by titles: those are the peer's, and as many as it likes.
        self._narrowed = functools.lru_cache(maxsize=256)(self._narrow)

    def narrow(self, offer: Offer, calling_ae: str, called_ae: str) -> Offer:
        """What of `offer` some destination takes of objects that come under these AE titles."""
        if self._anything:
            return offer
        possible = tuple(
            number
            for number, rule in enumerate(self._rules)
            if rule.calling_ae.fullmatch(calling_ae) and rule.called_ae.fullmatch(called_ae)
        )
        return self._narrowed(offer, possible)

    def _narrow(self, offer: Offer, possible: tuple[int, ...]) -> Offer:
        storage, limited = set(), set()
        for sop_class in offer.storage:
            takers = self._destinations(sop_class, possible)
            answers = [self._takers[name].takes(sop_class, offer.transfer_syntaxes) for name in takers]
            taken = [one for one in answers if one is not None]
            if taken or not takers:
                storage.add(sop_class)
                syntaxes = frozenset[str]().union(*taken)
                if takers and syntaxes != offer.transfer_syntaxes:
                    limited.add((sop_class, syntaxes))
        return replace(offer, storage=frozenset(storage), limited=frozenset(limited))

    def _destinations(self, sop_class: str, possible: tuple[int, ...]) -> frozenset[str]:
        """Where an object of this SOP class may go (`routing.Router`); empty if nowhere."""
        found: set[str] = set()
        certain = False
        for number in possible:
            rule = self._rules[number]
            if not _names_match(rule.sop_class, sop_class):
                continue
            if rule.drop and rule.certain:
                return frozenset()
            found.update(rule.to)
            certain = certain or rule.certain
        return frozenset(found) if certain else frozenset(found) | self._default


def _names_match(pattern: Pattern, sop_class: str) -> bool:
    return any(pattern.fullmatch(name) for name in (sop_class, *uid_names(sop_class)))

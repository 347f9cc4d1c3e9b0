"""Routing: which destinations an object goes to, by the rules of the configuration.

Intake builds one `Router` per configuration and asks it once per object. Every rule whose patterns all match adds its
destinations; one that drops wins over all others; if none matched the default stands, or the object is visibly
unrouted. A pattern about a value the object doesn't have never matches. Case counts, but not in a Code String, which
has no lower case (PS3.5 6.2): `ct` can only mean CT. Pure; never fails on what a peer sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from relaypacs.dicom.tags import tag_of, vr_of
from relaypacs.dicom.uid import uid_names
from relaypacs.model import ObjectMeta, Route, Routed, RoutingKeys
from relaypacs.policy.pattern import Pattern, compile_pattern

BY_DEFAULT = "routing.default"
"""What `Route.rule` says when no rule matched; no rule can have this name."""
_LONGEST_VALUE = 1024  # bounds what a pattern can cost

_Values = Callable[[RoutingKeys, ObjectMeta], Sequence[str]]


class RoutingRule(Protocol):
    """What the router needs of a `[[rule]]` (`config.Rule` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def calling_ae(self) -> str: ...
    @property
    def called_ae(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def sop_class(self) -> str: ...
    @property
    def tags(self) -> Mapping[str, str]: ...
    @property
    def to(self) -> tuple[str, ...]: ...
    @property
    def priority(self) -> int: ...
    @property
    def drop(self) -> bool: ...


class Router:
    """The rules, compiled. ValueError for a pattern or a tag that the configuration's own check would refuse.

    `default` names the destinations when no rule matched. `ae_titles_case_sensitive` is what `[receive]` says.
    """

    def __init__(
        self, rules: Sequence[RoutingRule], default: Sequence[str] = (), *, ae_titles_case_sensitive: bool = True
    ) -> None:
        self._rules = [(rule, _conditions(rule, ignore_case=not ae_titles_case_sensitive)) for rule in rules]
        self._default = tuple(dict.fromkeys(default))
        self.wanted_tags = frozenset(tag_of(name) for rule in rules for name in rule.tags)
        """Tags (`GGGGEEEE`) that `RoutingKeys.elements` must hold for the rules to see them."""

    def route(self, keys: RoutingKeys, meta: ObjectMeta) -> Route:
        """Where an object goes. `Route.rule` names every rule that had a say, joined by commas."""
        destinations: dict[str, None] = {}
        names, priority = [], 0
        for rule, conditions in self._rules:
            if not all(_matches(pattern, values(keys, meta)) for pattern, values in conditions):
                continue
            if rule.drop:
                return Route(Routed.DROPPED, rule=rule.name)
            destinations.update(dict.fromkeys(rule.to))
            names.append(rule.name)
            priority = max(priority, rule.priority)
        if names:
            return Route(Routed.ROUTED, tuple(destinations), priority, ",".join(names))
        if self._default:
            return Route(Routed.ROUTED, self._default, rule=BY_DEFAULT)
        return Route(Routed.UNROUTED)


def _conditions(rule: RoutingRule, *, ignore_case: bool) -> list[tuple[Pattern, _Values]]:
    fixed: list[tuple[str, _Values, bool]] = [
        (rule.calling_ae, lambda keys, meta: (meta.calling_ae,), ignore_case),
        (rule.called_ae, lambda keys, meta: (meta.called_ae,), ignore_case),
        (rule.modality, lambda keys, meta: _parts(keys.modality), True),
        (rule.sop_class, lambda keys, meta: (meta.sop_class_uid, *uid_names(meta.sop_class_uid)), False),
    ]
    found = [(compile_pattern(text, ignore_case=fold), values) for text, values, fold in fixed if text]
    for name, text in rule.tags.items():
        tag = tag_of(name)
        found.append((compile_pattern(text, ignore_case=vr_of(int(tag, 16)) == "CS"), _element(tag)))
    return found


def _element(tag: str) -> _Values:
    return lambda keys, meta: _parts(keys.elements.get(tag, ""))


def _parts(value: str) -> Sequence[str]:
    """A value as a whole, and each of several (PS3.5 6.4)."""
    value = value[:_LONGEST_VALUE]
    return (value, *(part.strip() for part in value.split("\\"))) if "\\" in value else (value,)


def _matches(pattern: Pattern, values: Sequence[str]) -> bool:
    return any(value and pattern.fullmatch(value) for value in values)

"""Rules: which match, what they add up to, and what they say of objects that can't be read."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaypacs.config.model import Rule
from relaypacs.model import ObjectMeta, Route, Routed, RoutingKeys
from relaypacs.policy.pattern import compile_pattern, may_be_slow
from relaypacs.policy.routing import Router

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
META = ObjectMeta("a", "CT_1", "RELAY", "10.0.0.1:5", 0.0, CT, "1.2.3", "1.2.840.10008.1.2")
KEYS = RoutingKeys(modality="CT", elements={"00081010": "ROOM 1", "00080008": "ORIGINAL\\PRIMARY \\AXIAL"})
BROKEN = RoutingKeys(complete=False, problem="truncated")


def route(*rules, default=(), keys=KEYS, meta=META, **options):
    return Router([Rule(name=f"r{n}", **rule) for n, rule in enumerate(rules)], default, **options).route(keys, meta)


def matches(keys=KEYS, meta=META, **patterns):
    return route({**patterns, "to": ("pacs",)}, keys=keys, meta=meta).verdict is Routed.ROUTED


def test_a_rule_without_patterns_matches_everything():
    assert route({"to": ("pacs",)}) == Route(Routed.ROUTED, ("pacs",), 0, "r0")
    assert route({"to": ("pacs",)}, keys=BROKEN).verdict is Routed.ROUTED


@pytest.mark.parametrize(
    "patterns",
    [
        {"calling_ae": "CT_1"}, {"calling_ae": "CT_*"}, {"calling_ae": "CT_?"}, {"calling_ae": "[CD]T_1"},
        {"calling_ae": r"re:(CT|MR)_\d+"}, {"called_ae": "RELAY"}, {"modality": "CT"}, {"modality": "re:CT|MR"},
        {"sop_class": CT}, {"sop_class": "CT Image Storage"}, {"sop_class": "CTImageStorage"}, {"sop_class": "*Image*"},
        {"tags": {"StationName": "ROOM*"}}, {"tags": {"0008,1010": "ROOM 1"}},
        {"tags": {"ImageType": "PRIMARY"}}, {"tags": {"ImageType": r"re:ORIGINAL\\.*AXIAL"}},
        {"calling_ae": "CT_1", "modality": "CT", "sop_class": CT,
         "tags": {"StationName": "ROOM 1", "ImageType": "AXIAL"}},
    ],
)  # fmt: skip
def test_patterns_that_match(patterns):
    assert matches(**patterns)


@pytest.mark.parametrize(
    "patterns",
    [
        {"calling_ae": "CT"}, {"calling_ae": "ct_1"}, {"calling_ae": "re:CT"}, {"calling_ae": "re:^_1"},
        {"modality": "MR"}, {"called_ae": "RELAYPACS"}, {"sop_class": MR}, {"sop_class": "MR Image Storage"},
        {"tags": {"StationName": "ROOM"}},
        {"tags": {"InstitutionName": "*"}}, {"tags": {"InstitutionName": "re:.*"}}, {"tags": {"ImageType": "PRIMARY "}},
        {"calling_ae": "CT_1", "modality": "MR"}, {"tags": {"StationName": "ROOM 1", "ImageType": "SAGITTAL"}},
    ],
)  # fmt: skip
def test_patterns_that_do_not(patterns):
    assert not matches(**patterns)


def test_every_matching_rule_adds_its_destinations_once_in_order():
    answer = route(
        {"to": ("a", "b"), "priority": 3},
        {"to": ("c",), "modality": "MR", "priority": 9},
        {"to": ("b", "d"), "priority": 5},
    )
    assert answer == Route(Routed.ROUTED, ("a", "b", "d"), 5, "r0,r2")
    assert route({"to": ("a",), "priority": 5}, {"to": ("b",), "priority": 1}).priority == 5


def test_a_drop_wins_wherever_it_stands():
    assert route({"to": ("a",)}, {"drop": True, "modality": "CT"}) == Route(Routed.DROPPED, rule="r1")
    assert route({"drop": True, "modality": "CT"}, {"to": ("a",)}).verdict is Routed.DROPPED
    assert route({"to": ("a",)}, {"drop": True, "modality": "MR"}).verdict is Routed.ROUTED
    assert route({"drop": True}, default=("a",)).verdict is Routed.DROPPED


def test_when_no_rule_matched():
    assert route({"to": ("a",), "modality": "MR"}, default=("b", "c", "b")) == Route(
        Routed.ROUTED, ("b", "c"), rule="routing.default"
    )
    assert route({"to": ("a",), "modality": "MR"}) == Route(Routed.UNROUTED)
    assert route() == Route(Routed.UNROUTED)


def test_an_object_that_could_not_be_read_goes_by_its_association():
    assert matches(keys=BROKEN, calling_ae="CT_*", sop_class="CTImageStorage")
    assert not matches(keys=BROKEN, modality="*")
    assert not matches(keys=BROKEN, tags={"StationName": "*"})


def test_a_blank_ae_title_matches_no_pattern():
    assert not matches(meta=META._replace(calling_ae=""), calling_ae="*")


def test_ae_titles_compare_as_reception_compares_them():
    rule = {"to": ("a",), "calling_ae": "ct_1", "called_ae": "relay"}
    assert route(rule).verdict is Routed.UNROUTED
    assert route(rule, ae_titles_case_sensitive=False).verdict is Routed.ROUTED


@pytest.mark.parametrize(("pattern", "value"), [("ct", "CT"), ("CT", "ct"), ("c?", "CT"), ("re:ct|mr", "CT")])
def test_a_code_string_has_no_lower_case(pattern, value):
    keys = RoutingKeys(modality=value, elements={"00080070": "Siemens", "00180015": value})
    assert matches(keys=keys, modality=pattern)
    assert matches(keys=keys, tags={"BodyPartExamined": pattern})
    assert not matches(keys=keys, tags={"Manufacturer": "SIEMENS"}), "text is another matter"


def test_wanted_tags_are_the_rules_own():
    rules = [Rule(name="a", to=("x",), tags={"StationName": "*", "0009,10FF": "*"}), Rule(name="b", drop=True)]
    assert Router(rules).wanted_tags == {"00081010", "000910FF"}


def test_patterns_that_are_none():
    for pattern in ("re:(", "re:*", "re:[z-a]", "re:(?P<a>x)(?P<a>y)", "re:a{99999999999}"):
        with pytest.raises(ValueError, match="is no regular expression"):
            compile_pattern(pattern)
    assert compile_pattern("[").fullmatch("[")
    assert compile_pattern("re:").fullmatch("")


def test_no_value_keeps_an_expression_busy():
    """Python's own engine would take longer than the universe has time."""
    assert not compile_pattern("re:(A+)+B").fullmatch("A" * 1024)
    assert compile_pattern("re:(A+)+B").fullmatch("A" * 1023 + "B")
    assert compile_pattern("re:ct_é.*", ignore_case=True).fullmatch("CT_Éa")
    assert not compile_pattern("re:CT.").fullmatch("CT\udce4\udce4")
    assert not compile_pattern("re:CT").fullmatch("CT\n")


@pytest.mark.parametrize("pattern", ["re:(?!CT_).*", r"re:(A)\1", "re:(?<=C)T"])
def test_what_re2_has_no_word_for_is_matched_all_the_same(pattern):
    assert may_be_slow(pattern)
    assert compile_pattern("re:(?!CT_).*").fullmatch("MR_1")
    assert not compile_pattern("re:(?!CT_).*").fullmatch("CT_1")
    assert not may_be_slow("re:CT_[0-9]+")
    assert not may_be_slow("(?!CT_)*")


def test_a_glob_is_literal_but_for_its_wildcards():
    assert compile_pattern("a.b+(c)").fullmatch("a.b+(c)")
    assert not compile_pattern("a.b").fullmatch("axb")
    assert compile_pattern("a*").fullmatch("a\nb")


def test_a_long_hostile_value_costs_little():
    hostile = RoutingKeys(elements={"00081010": "a" * 1_000_000 + "!"})
    before = time.perf_counter()
    for _ in range(100):
        assert not matches(keys=hostile, tags={"StationName": "*a*a*a*a*b"})
    assert time.perf_counter() - before < 2


TEXT = st.text(max_size=20)


@given(TEXT, TEXT, TEXT, TEXT, TEXT)
def test_whatever_a_peer_sends_there_is_an_answer(calling, called, sop_class, modality, value):
    meta = ObjectMeta("a", calling, called, "p", 0.0, sop_class, "", "")
    keys = RoutingKeys(modality=modality, elements={"00081010": value})
    answer = route(
        {"to": ("a",), "calling_ae": "re:[A-Z]+", "sop_class": "*"}, {"to": ("b",), "tags": {"StationName": "X*"}},
        keys=keys, meta=meta,
    )  # fmt: skip
    expected = [name for name, hit in (
        ("a", re.fullmatch("[A-Z]+", calling) and sop_class),
        ("b", any(part.startswith("X") for part in [value, *map(str.strip, value.split("\\"))])),
    ) if hit]  # fmt: skip
    assert list(answer.destinations) == expected
